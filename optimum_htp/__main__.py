"""`python -m optimum_htp` is `optimum-htp`, and this is where both begin."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def main() -> int:
    """Runs the command line of this process and returns its exit code; Ctrl-C is heard from here on."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # not if the caller ignores it, as nohup does
        signal.signal(signal.SIGINT, _interrupted)
    from optimum_htp.cli.main import main as run

    signal.signal(signal.SIGINT, usual)
    return run()


def _interrupted(*_: object) -> NoReturn:
    """Ends a process that has done nothing but import."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
