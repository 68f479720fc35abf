"""A package on disk: what is written into it, read back, packed and stripped.

| task | file |
|---|---|
| open a package, find its files, read their tags | `package` |
| whose tags a file has that a tool changed, or made from another | `resolver`, by a file's own `skeleton` too |
| the tagged graphs that a file was merged from | `copies` |
| which files of two packages belong together | `pairing` |
| whether a report is of a file | `fingerprints` |
| metadata on nodes: keys, options, writing, stripping | `node_metadata`; for all files of a package `write` |
| metadata on models: a mark for each tagged graph | `marks` |
| which inputs and outputs of two graphs are each other's | `value_pairing` |
| what an extracted part was cut from | `extracted` |
| which outputs were added to a file | `exposed` |
| a copy of a file without functions | `inlining` |
| the line of Python that a node comes from | `python_lines` |
| `export_metadata.json` | `sidecar/` |
| the components that `export.json` names, and how caches are called | `components` |
| config, tokenizer and processor files, custom code | `configs` |
| where a new package may be, and what is copied to it | `destination` |
| write a directory as a whole or not at all | `staging`; one at a time `locking`; after a kill `recovery`, delaying Ctrl-C `interrupts` |
| links, and what may be copied | `links` |
| the format of packed files; names and sizes to trust | `archive` (`verbs.pack` and `verbs.unpack` do the work) |
| small files and untrusted JSON; how much is accepted | `json_files`, `limits`; what is in a directory `directories` |
"""

from optimum_htp.package.archive import (
    FILE_PREFIX,
    MANIFEST,
    ExternalTensor,
    PackedFiles,
    check_external_sizes,
    check_sizes,
    is_pack_key,
    manifest_text,
    names_problem,
    read_packed,
)
from optimum_htp.package.components import EXPORT_MANIFEST, Component, cache_leaf, with_architectures
from optimum_htp.package.configs import (
    CONFIG,
    GENERATION_CONFIG,
    MODEL_INDEX,
    PROCESSOR_FILES,
    TOKENIZER_CONFIG,
    VOCABULARY_FILES,
    add_config_metadata,
    advice_without_config,
    architectures,
    code_files,
    complete_package,
    directory_with_config,
    generates,
    has_config_metadata,
    preprocessors_of,
    remove_config_metadata,
    reset_modes,
)
from optimum_htp.package.destination import checked_output, copy_data, copy_others, write_copy, write_records
from optimum_htp.package.exposed import exposed_entries, exposed_outputs
from optimum_htp.package.extracted import CutFrom, cut_from
from optimum_htp.package.file_traits import FileTraits, traits_of
from optimum_htp.package.fingerprints import fingerprint
from optimum_htp.package.inlining import inlined
from optimum_htp.package.json_files import parse_config, parse_json, read_config, read_small
from optimum_htp.package.limits import MAX_CONFIG_BYTES, MAX_DIRECTORY_DEPTH, MAX_EXTERNAL_BYTES
from optimum_htp.package.links import entries, external_file, is_inside, package_files, refuse_link, refuse_ways
from optimum_htp.package.locking import is_staging
from optimum_htp.package.marks import is_of_whole_file, kept_skeleton
from optimum_htp.package.node_metadata import (
    Annotations,
    HtpOptions,
    Ownership,
    options_of,
    read_tags,
    renamed_tensors,
    strip_tags,
    write_layer_values,
    write_renames,
    write_tags,
)
from optimum_htp.package.package import HtpFile, HtpPackage, as_package, onnx_files, path_of, whole_package
from optimum_htp.package.pairing import partners
from optimum_htp.package.python_lines import PythonLine, lines_by_output, python_line
from optimum_htp.package.recovery import settle
from optimum_htp.package.resolver import evidence_of, projected, reference_evidence, skeleton_of, tagged_file
from optimum_htp.package.sentence_modules import (
    MODULES,
    SENTENCE_GRAPH,
    add_sentence_graph,
    add_sentence_modules,
    is_sentence_graph,
)
from optimum_htp.package.sidecar.record import Derivation, FileRecord, StoredParameter, TagCounts
from optimum_htp.package.sidecar.sidecar import SIDECAR, Sidecar, library_versions
from optimum_htp.package.skeleton import pack_skeleton
from optimum_htp.package.staging import StagedDirectory, name_output, without_staging
from optimum_htp.package.value_pairing import ValuePairs, check_renamed, makers_of, paired_values, users_of
from optimum_htp.package.write import UNCHANGED, changing, check_document, tagging_error, write_document, write_files
