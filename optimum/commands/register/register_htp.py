"""The hook by which `optimum-cli` finds `export htp` and `htp`.

Optimum imports every `register_*.py` of the namespace package `optimum.commands.register` at each start, also for
commands that are not ours, so nothing heavy may be imported from here. There is no `__init__.py` anywhere under
`optimum/`: one would hide the packages of Optimum and of its other plugins.
"""

from optimum.commands.export.base import ExportCommand

from optimum_htp.cli.plugin import HtpCommand, HtpExportCommand

REGISTER_COMMANDS = [(HtpExportCommand, ExportCommand), HtpCommand]
