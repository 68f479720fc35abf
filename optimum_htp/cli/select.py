"""The verb `select`: the nodes of modules, in the form that the next tool wants.

What a pattern may be is decided in `hierarchy/patterns.py`, what a format prints in `selections/formats`.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from optimum_htp.cli.options import refuse_with, selection_format

HELP = "List the nodes of modules, in the form that a quantizer, a converter or ONNX Runtime takes."

_NOTES = r"""patterns (quote them, so that the shell leaves them alone):
  *.encoder.layer.*.attention
                     a glob; it must match the whole dotted path, so start it
                     with *. where something is in front; * crosses dots
  *.encoder.layer.2-5
                     a range of numbers, both ends included
  LayerNorm          a class; class:*Norm is a glob over classes
  re:layer\.[02]$    a regular expression, found anywhere in the dotted path
  /Net/Encoder.encoder
                     a tag, or a glob over tags
  *.layer@2          of modules that ran more than once, call 2, which is the
                     third (@1-3: these calls)
  !LayerNorm         all but these: taken away from what the others select
Several patterns select their union; if all start with !, all nodes but theirs.
The nodes of a module include those of the modules below it.

formats:
  names         the names of the nodes, one on a line
  json          everything, as with --json
  ort-quantize  a JSON list for nodes_to_exclude of ONNX Runtime's and Optimum's
                quantizers, where a Gemm also has the name that dynamic
                quantization gives it first
  ort-fp16      a JSON list for node_block_list, the nodes to keep in float32,
                of OnnxModel(model).convert_float_to_float16 in
                onnxruntime.transformers, and of Olive's OnnxFloatToFloat16;
                with the constants that they read. Not for the function
                float16.convert_float_to_float16, which rounds what goes from
                one of the nodes to another
  onnxconverter-fp16
                the same for onnxconverter_common.float16
  olive         a JSON list of fnmatch patterns, each for one name, for Olive's
                passes that take patterns
  modelopt      a JSON list of regular expressions for nodes_to_exclude of
                NVIDIA's quantizer and of its AutoCast, each for one name
  trtexec       arguments of NVIDIA's trtexec, up to TensorRT 10, that keep in
                float32 the layers of these nodes that give floating-point
                numbers, beside --fp16; quoted for a shell, and for xargs
  polygraphy    the same for Polygraphy
  nncf          a JSON list for names= of nncf.IgnoredScope, ignored_scope= of
                Intel's NNCF
  genai-int4    what onnxruntime-genai's builder calls the products of these
                modules, for its extra option nodes_to_exclude (up to 0.9
                int4_nodes_to_exclude): its graph is not this one
  quark         a JSON list for exclude= of AMD Quark's QConfig
  aimet         a JSON list for nodes_to_exclude= of Qualcomm's AIMET
  layer-ann     the session option that puts the nodes on a device, by their
                layer_ann
  layer-name    the same by parts of their names; the file need not change
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `select`."""
    parser.epilog = _NOTES
    parser.add_argument("package", metavar="PKG", help="The package's directory, or an ONNX file.")
    parser.add_argument("patterns", metavar="PATTERN", nargs="+", help="The modules to select; see below.")
    parser.add_argument(
        "--format",
        type=selection_format,
        metavar="FORMAT",
        help="What to print; default: names. See below; list says which version of each tool it was checked against.",
    )
    parser.add_argument("--file", metavar="NAME", help="Select in these files of the package only; globs allowed.")
    parser.add_argument("--own", action="store_true", help="Leave out what modules below the selected ones own.")
    parser.add_argument(
        "--no-fused",
        action="store_true",
        help="Leave out nodes that were fused from modules of which some are selected and some are not.",
    )
    parser.add_argument(
        "--write-layer-annotations",
        action="store_true",
        help="Write ONNX Runtime's layer_ann on all nodes of the package's files that have selected nodes: these files "
        "change. The session option that selects the nodes by it is printed; `strip` removes it again.",
    )
    parser.add_argument("--device", metavar="NAME", help="The device of layer-ann and layer-name; default: gpu.")


def run(args: Namespace) -> int:
    """Prints the nodes of the selected modules, and on stderr what to know about them."""
    import sys

    from optimum_htp.cli.views.select import selection_lines, selection_notes
    from optimum_htp.cli.views.terminal import print_json, print_lines
    from optimum_htp.package import HtpPackage
    from optimum_htp.verbs.select import select, write_layer_annotations

    if args.json and args.format not in (None, "json"):
        refuse_with(args, "--json prints everything as JSON: give one of them", "format")
    form = "json" if args.json else args.format or ("layer-ann" if args.write_layer_annotations else "names")
    if form not in ("layer-ann", "layer-name"):
        refuse_with(args, "only --format layer-ann and layer-name name a device", "device")
    device = args.device or "gpu"
    package = HtpPackage(args.package)
    selection = select(package, args.patterns, file=args.file, own=args.own, fused=not args.no_fused)
    # Made before anything is written: a format may be unable to express the selection.
    lines = [] if form == "json" else list(selection_lines(selection, form=form, device=device))
    if args.write_layer_annotations:
        write_layer_annotations(package, selection)
    for note in selection_notes(selection, form=form, device=device):
        print(f"note: {note}", file=sys.stderr)
    if form == "json":
        print_json(selection.to_dict())
    print_lines(*lines)
    return 0
