"""How every command ends: its exit code, one line for what a person can fix, a traceback for a bug.

| code | when |
|---|---|
| 0 | done |
| 1 | a check failed, or with `diff --exit-code` there are differences |
| 2 | the user's, the file's or the machine's fault: one line on stderr says what to do |
| 70 | a bug of ours (`EX_SOFTWARE`): a line that says so, and the traceback |
| 130 | interrupted |
| 141 | whoever read the output closed it (`| head`), as for any command that SIGPIPE ends |

A fault is an `HtpError`, an `OSError`, a `MemoryError`, or in an export what `faults` lists. Anything else is a bug and
keeps its type; its exit code is not Python's 1, which would say that a check failed. With `OPTIMUM_HTP_TRACEBACK=1` the
traceback of what led to exit code 2 is shown too.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable

import optimum_htp
from optimum_htp.cli.views.terminal import printable
from optimum_htp.errors import HtpError, cannot_write

FAULT = 2
BUG = 70
INTERRUPTED = 130
READER_GONE = 141

_MAX_LINE_CHARACTERS = 600
_BUG = f"this is a bug in optimum-htp {optimum_htp.__version__}; please report it with the command and this traceback:"


def outcome(run: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; says what went wrong."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of modules may have characters that the encoding of a pipe lacks; half an answer is worse.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = run()
        sys.stdout.flush()
    except HtpError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return READER_GONE
    except OSError as error:
        _discard_output()
        if error.filename is None:
            return _complain(str(cannot_write("standard output", error)))
        return _complain(f"{error.filename}: {error.strerror or error}; check that it exists, and its permissions")
    except MemoryError:
        return _complain("not enough memory; use a machine with more, or a smaller model")
    except Exception:
        print(f"error: {_BUG}", file=sys.stderr)
        traceback.print_exc()
        return BUG
    return code


def one_line(text: str) -> str:
    r"""A message as one line that is safe to print: white space collapsed, control characters escaped, not endless.

    >>> one_line("no such\n  file: \x1b[31m")
    'no such file: \\x1b[31m'
    """
    line = printable(" ".join(text.split()))
    if len(line) <= _MAX_LINE_CHARACTERS:
        return line
    half = _MAX_LINE_CHARACTERS // 2
    return f"{line[:half].rstrip()} [...] {line[-half:].lstrip()}"


def _complain(message: str) -> int:
    if os.environ.get("OPTIMUM_HTP_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exc()
    print(f"error: {one_line(message)}", file=sys.stderr)
    return FAULT


def _discard_output() -> None:
    """Throws away what can't be written any more, of which Python would complain again when it exits."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
