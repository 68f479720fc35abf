"""The commands that `optimum-cli` gets from us: `export htp`, and `htp` with its verbs.

`optimum-cli` loads this at each start, so nothing heavy is imported here: of Optimum, only its own commands. It ignores
what a command returns and catches nothing, so that each of ours ends the process itself.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.onnx import ONNXExportCommand

from optimum_htp.cli.arguments import refuse_in_one_line
from optimum_htp.cli.export import export
from optimum_htp.cli.options import add_htp_arguments, add_version
from optimum_htp.cli.other_lines import add_verbose, other_lines
from optimum_htp.cli.outcome import FAULT, outcome
from optimum_htp.cli.verbs import VERBS, add_verb, load_verb

_NO_VALIDATION = """\
Do not let Optimum validate the export. Where its validation fails, the package is there all the same, and the exit code
is 1."""


class HtpExportCommand(ONNXExportCommand):  # type: ignore[misc] # Optimum has no types
    """`optimum-cli export htp`: Optimum's own ONNX export command with our `main_export`, and our options."""

    COMMAND = CommandInfo(name="htp", help="Export PyTorch to ONNX, with every node tagged with its module")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Adds Optimum's options, and ours."""
        ONNXExportCommand.parse_args(parser)
        ours = parser.add_argument_group("HTP arguments")
        ours.add_argument("--no-validation", action="store_true", help=_NO_VALIDATION)
        add_htp_arguments(ours)
        add_verbose(ours)
        refuse_in_one_line(parser)

    def execute(self) -> int:
        """Exports and returns the exit code; raises as `cli.export.export` does."""
        with other_lines(verbose=self.args.verbose):
            return export(self.args, super().run)

    def run(self) -> None:
        """Exports and ends the process."""
        sys.exit(outcome(self.execute))


class _VerbCommand(BaseOptimumCLICommand):  # type: ignore[misc] # Optimum has no types
    """A verb as a command of Optimum; its `CommandInfo` says which one."""

    def parse_args(self, parser: ArgumentParser) -> None:
        """Adds the verb's arguments."""
        add_verb(parser, load_verb(self.COMMAND.name))

    def run(self) -> None:
        """Runs the verb and ends the process."""
        sys.exit(outcome(lambda: self.args.run(self.args)))


class HtpCommand(BaseOptimumCLICommand):  # type: ignore[misc] # Optimum has no types
    """`optimum-cli htp`, whose subcommands are the verbs."""

    COMMAND = CommandInfo(name="htp", help="Look into ONNX packages whose nodes are tagged with their modules")
    SUBCOMMANDS = tuple(
        CommandInfo(name=name, help=load_verb(name).HELP, subcommand_class=_VerbCommand) for name in VERBS
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Adds what is no verb."""
        add_version(parser)
        refuse_in_one_line(parser)

    def run(self) -> None:
        """Shows the verbs and ends the process, as for any wrong command line."""
        self.parser.print_help(sys.stderr)
        sys.exit(FAULT)
