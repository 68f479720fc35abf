"""`export_metadata.json`: the parts that a change of its format has to change together.

| part | file |
|---|---|
| the data: what is known of one ONNX file, and of the package | `record` (`FileRecord`), `sidecar` (`Sidecar`) |
| the writer | `document.file_document`, `Sidecar.write` |
| the reader, which checks all that it reads | `document.parse_members`, `Sidecar.parse` |
| the schema for others | `optimum_htp/schemas/export_metadata.schema.json` |
"""
