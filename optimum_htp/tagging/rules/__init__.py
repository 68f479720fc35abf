"""The rules that decide the tag of a node, by kind of evidence.

The entry is `order`: `tag_export` and `tag_model` try its `RULES` on every node, with a worked example.

| source that is recorded | rule in `order` | the evidence |
|---|---|---|
| `scope`, `fused` | `by_call` | the trace's calls, as the dynamo exporter's program has them |
| `metadata` | `by_metadata` | `metadata`: what torch's dynamo exporter writes on nodes; `statements` holds it against the graph |
| `scope` | `by_scope` | the trace's scopes; without them `node_names`: the scopes that names spell |
| `parameter` | `by_parameter` | the trace: which module holds the tensor that a node produces; where names hold no scopes `weights`: which module computes with what a node reads, as its `code` shows |
| `dataflow` | `by_consumers`, `by_producers` | `evidence`: the nodes around it, decided before |
| `unresolved` | none could decide | `evidence.Evidence.node_tag` |

`fused` is also what `fusions` finds, in files of torch's dynamo exporter: the work of several modules in one node. Otherwise
`inserted`, and `fused` of other tools than that exporter, come from `tagging.projection`.
"""
