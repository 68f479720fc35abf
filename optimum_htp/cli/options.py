"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import re
from argparse import Action, ArgumentTypeError
from typing import TYPE_CHECKING, Any

import optimum_htp
from optimum_htp.errors import HtpError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup

    from optimum_htp.package import HtpOptions


def add_version(parser: ArgumentParser) -> None:
    """Adds the option that says which version this is."""
    parser.add_argument("--version", action="version", version=f"optimum-htp {optimum_htp.__version__}")


def add_htp_arguments(parser: ArgumentParser | _ArgumentGroup, *, config: bool = True) -> None:
    """Adds the options of what is written with the tags; the one for config.json only where a command writes that."""
    options = {
        "--no-namespace": "Do not write `namespace` on the nodes, which Model Explorer groups them by.",
        "--torch-metadata": "Write `pkg.torch.onnx.name_scopes` and `pkg.torch.onnx.class_hierarchy` on the nodes too, "
        "in torch's formats.",
        "--no-skeleton": "Do not write the skeleton of the tagged graph into the ONNX file, from which `htp project` tags "
        "the file again after a tool that drops the metadata of nodes.",
    }
    if config:
        options["--config-metadata"] = (
            "Write a block `htp_metadata` into config.json: the number of modules and their classes."
        )
    for option, text in options.items():
        parser.add_argument(option, action="store_true", help=text)


def has_htp_arguments(args: Namespace) -> bool:
    """Whether any of the options of `add_htp_arguments` was given."""
    return bool(
        args.no_namespace or args.torch_metadata or args.no_skeleton or getattr(args, "config_metadata", False)
    )


def htp_options(args: Namespace) -> HtpOptions:
    """What `add_htp_arguments` was given."""
    from optimum_htp.package import HtpOptions

    return HtpOptions(
        namespace=not args.no_namespace,
        torch_metadata=args.torch_metadata,
        skeleton=not args.no_skeleton,
        config_metadata=getattr(args, "config_metadata", False),
    )


SEQUENCE = "128, or fewer where the model takes no more"
"""How long the sequences are that we make for an ONNX file."""


def add_input_arguments(parser: ArgumentParser, *, batch: str, sequence: str, several_samples: bool = False) -> None:
    """Adds the options for what a model is run on; `batch` and `sequence` are the defaults in words."""
    inputs = parser.add_argument_group("inputs")
    what = "Run on these arrays, named like the model's inputs"
    if several_samples:
        inputs.add_argument(
            "--inputs",
            action=_Samples,
            nargs="+",
            metavar="FILE.npz",
            help=f"{what}; a file for each sample.",
        )
    else:
        inputs.add_argument("--inputs", metavar="FILE.npz", help=f"{what}.")
    add_size_arguments(inputs, "--dim", batch=batch, sequence=sequence)


class _Samples(Action):
    """The files of several samples, in one option or in several; what comes last and is no .npz file is the package."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option: str | None = None) -> None:
        files = [*(getattr(namespace, self.dest) or []), *values]
        if namespace.package is None and len(values) > 1 and not files[-1].lower().endswith(".npz"):
            namespace.package = files.pop()
        setattr(namespace, self.dest, files)


def add_size_arguments(inputs: _ArgumentGroup, *axis_options: str, batch: str, sequence: str) -> None:
    """Adds the options for the sizes of inputs; `axis_options` are the spellings of the one for any axis."""
    inputs.add_argument("--batch-size", type=positive, metavar="N", help=f"Examples at once ({batch}).")
    inputs.add_argument("--sequence-length", type=positive, metavar="N", help=f"Tokens of each ({sequence}).")
    inputs.add_argument("--height", type=positive, metavar="N", help="Pixels (what the config says).")
    inputs.add_argument("--width", type=positive, metavar="N", help="Pixels (what the config says).")
    inputs.add_argument(
        *axis_options,
        dest="dim",
        type=named_size,
        action="append",
        default=[],
        metavar="NAME=N",
        help="The size of any axis by its name, such as sequence_length=32; may be repeated.",
    )


def add_held_memory(parser: ArgumentParser) -> None:
    """Adds `--max-memory` of what looks at all tensors of a graph, some at a time."""
    parser.add_argument(
        "--max-memory",
        type=memory_size,
        default=1 << 30,
        metavar="SIZE",
        help="How much memory the tensors that are held at once may take: 500M, 2G (1G).",
    )


def add_map_argument(
    parser: ArgumentParser | _ArgumentGroup, package: str = "PKG", other: str = "what it is compared with"
) -> None:
    """Adds the option that says which inputs and outputs are which, where names don't."""
    parser.add_argument(
        "--map",
        type=new_and_old,
        action="append",
        default=[],
        metavar="NEW=OLD",
        help=f"The input or output NEW of {package} is called OLD in {other}, or is not there (NEW=); may be repeated. "
        "Prefixes and the like are found without it.",
    )


def input_sizes(args: Namespace) -> dict[str, Any]:
    """The sizes that `add_size_arguments` was given, as keywords of a verb."""
    names = ("batch_size", "sequence_length", "height", "width")
    return {**{name: getattr(args, name) for name in names}, "dims": dict(args.dim)}


def add_expand(parser: ArgumentParser) -> None:
    """Adds the option that shows each layer by itself."""
    parser.add_argument(
        "--expand",
        action="store_true",
        help="Show each layer by itself. Without it, layers that are alike are one row, such as `layer.0-5 ×6`, whose "
        "figures are theirs together; and modules are left out of the tree that are in one without nodes.",
    )


def add_session_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ONNX Runtime's session."""
    parser.add_argument(
        "--provider",
        default="CPUExecutionProvider",
        metavar="NAME",
        help="ONNX Runtime's execution provider (CPUExecutionProvider).",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="Threads within an operator.")


def add_limit_arguments(parser: ArgumentParser | _ArgumentGroup, *, memory: bool = True) -> None:
    """Adds the options for what ONNX Runtime may take with a graph."""
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="How long ONNX Runtime may take to load the graph, and for each run (600).",
    )
    if memory:
        parser.add_argument(
            "--max-memory",
            type=memory_size,
            metavar="SIZE",
            help="How much memory it may take for that, on Linux: 500M, 8G (2G and 8 times what the model has on the disk).",
        )


def refuse_with(args: Namespace, reason: str, *names: str) -> None:
    """Raises HtpError if any of some options was given, which can't act for the reason."""
    given = [name for name in names if getattr(args, name) not in (None, False)]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise HtpError(f"{options}: {reason}")


def selection_format(text: str) -> str:
    """The name of a format for selected nodes; for `list` it prints what there are, and ends as `--help` does.

    They are imported only where one is asked for: that takes its time.
    """
    from optimum_htp.selections import FORMATS

    if text == "list":
        from optimum_htp.cli.views.select import formats_page
        from optimum_htp.cli.views.terminal import print_page

        print_page(formats_page())
        raise SystemExit(0)
    names = ("json", *FORMATS)
    if text not in names:
        raise ArgumentTypeError(
            f"{text!r} is not a format: give one of {', '.join(names)}; --format list describes them"
        )
    return text


def count(text: str) -> int:
    """An integer, 0 or more."""
    return _integer(text, least=0)


def positive(text: str) -> int:
    """An integer, 1 or more."""
    return _integer(text, least=1)


def tolerance(text: str) -> float:
    """A finite number, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number, 0 or more")
    return value


def factor(text: str) -> float:
    """A finite number, 1 or more."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number, 1 or more")
    return value


def seconds(text: str) -> float:
    """A number of seconds, more than 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds, more than 0")
    return value


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def memory_size(text: str) -> int:
    """Bytes, as in `500M` and `2G`."""
    match = re.fullmatch(r"(\d{1,9})([KMG]?)(?:I?B)?", text.upper(), re.ASCII)
    if match is None or not int(match[1]):
        raise ArgumentTypeError(f"{text!r} is not a size, such as 500M or 2G")
    return int(match[1]) * _UNITS[match[2]]


def named_size(text: str) -> tuple[str, int]:
    """`NAME=N`, the size of an axis by its name."""
    name, _, size = text.rpartition("=")
    if not name:
        raise ArgumentTypeError(f"{text!r} is not of the form NAME=N, such as sequence_length=32")
    return name, positive(size)


def new_and_old(text: str) -> tuple[str, str]:
    """`NEW=OLD`, two names of one tensor; the second may be empty."""
    new, sign, old = text.partition("=")
    if not new or not sign or "=" in old:
        raise ArgumentTypeError(f"{text!r} is not of the form NEW=OLD, such as enc_input_ids=input_ids")
    return new, old


def _integer(text: str, *, least: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise ArgumentTypeError(f"{text!r} is not a whole number, {least} or more")
    return int(text)
