"""How every command ends: its exit code, one line for what a person can mend, a traceback for a bug.

| code | when |
|---|---|
| 0 | done |
| 1 | a check said no |
| 2 | the user's or the file's fault: one line on stderr says what to do |
| 130 | interrupted |
| 141 | whoever read the output closed it (`| head`), as for any command that SIGPIPE ends |

Anything else is a bug of ours and shows its traceback. With `OPTIMUM_HTP_TRACEBACK=1` the traceback of what led to
exit code 2 is shown too.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable

from optimum_htp.cli.views.terminal import printable
from optimum_htp.errors import HtpError


FAULT = 2
INTERRUPTED = 130
READER_GONE = 141

_MAX_LINE_CHARACTERS = 600


def outcome(run: Callable[[], int]) -> int:
    """Runs a command and returns its exit code, after saying in one line what went wrong, if it is not a bug."""
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
        where = error.filename or "standard output"
        return _complain(f"{where}: {error.strerror or error}; free space or mend permissions")
    except MemoryError:
        return _complain("not enough memory; use a machine with more, or a smaller model")
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
    """What can't be written any more is thrown away, or Python would complain once more when it exits."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
