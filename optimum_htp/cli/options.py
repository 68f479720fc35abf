"""The options of what the HTP pass writes, which several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup

    from optimum_htp.package import HtpOptions


def add_htp_arguments(parser: ArgumentParser | _ArgumentGroup, *, config: bool = True) -> None:
    """Adds them to a parser, the one for config.json only where a command writes that."""
    parser.add_argument(
        "--no-namespace",
        action="store_true",
        help="Do not write `namespace` on the nodes, which Model Explorer groups them by.",
    )
    parser.add_argument(
        "--torch-metadata",
        action="store_true",
        help="Write `pkg.torch.onnx.name_scopes` and `pkg.torch.onnx.class_hierarchy` on the nodes too, in torch's formats.",
    )
    parser.add_argument(
        "--no-skeleton",
        action="store_true",
        help="Do not write the skeleton of the tagged graph into the ONNX file, from which `htp project` tags the file again "
        "after a tool that drops the metadata of nodes.",
    )
    if config:
        parser.add_argument(
            "--config-metadata",
            action="store_true",
            help="Write a block `htp_metadata` into config.json: the number of modules and their classes.",
        )


def htp_options(args: Namespace) -> HtpOptions:
    """What the parsed arguments ask for."""
    from optimum_htp.package import HtpOptions

    return HtpOptions(
        namespace=not args.no_namespace,
        torch_metadata=args.torch_metadata,
        skeleton=not args.no_skeleton,
        config_metadata=getattr(args, "config_metadata", False),
    )
