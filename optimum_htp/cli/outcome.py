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

import _thread
import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import optimum_htp
from optimum_htp.cli.views.blocks import printable
from optimum_htp.errors import HtpError, cannot_write
from optimum_htp.onnxfile import is_abandoned

FAULT = 2
BUG = 70
INTERRUPTED = 130
READER_GONE = 141

_AGAIN_S = 1.5  # after which Ctrl-C comes again, where it got lost: what is put in order until then takes less
_MAX_LINE_CHARACTERS = 600
_BUG = f"this is a bug in optimum-htp {optimum_htp.__version__}; please report it with the command and this traceback:"


def outcome(run: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; says what went wrong."""
    code = _outcome(run)
    if is_abandoned():  # a call into ONNX Runtime that does not give up: Python would wait for it
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


def _outcome(run: Callable[[], int]) -> int:
    if not _streams_are_open():
        return _complain("standard output is closed, so nothing was done: send it to a file, or to /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of modules may have characters that the encoding of a pipe lacks; half an answer is worse.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _orderly_interrupts(), _warnings_in_lines():
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


def _streams_are_open() -> bool:
    """Whether there is a standard output; if another stream is closed, what is written to it goes nowhere."""
    for number in range(3):  # or the next file that is opened gets the number, and what C libraries print
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # a closed one; print takes None for standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (as long as the process lives)
    return sys.stdout is not None


@contextlib.contextmanager
def _warnings_in_lines() -> Iterator[None]:
    """Shows our warnings as `one_line` each, as errors are: names in them come from files."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(f"warning: {one_line(record.getMessage())}", file=sys.stderr)

    logger, lines = logging.getLogger("optimum_htp"), Lines(logging.WARNING)
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)


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


@contextlib.contextmanager
def _orderly_interrupts() -> Iterator[None]:
    """Ctrl-C and `kill` end the block with `KeyboardInterrupt`, whatever the libraries in it make of that.

    The exception may pass through C++ on its way and come out as another one. Or it goes no further than a bare `except`,
    or a callback that can't raise, as while a library is imported: as long as the block goes on, it comes again.
    """
    interrupted = False
    ended, at_once = threading.Event(), threading.Lock()

    def insist(number: signal.Signals) -> None:
        while not ended.wait(_AGAIN_S):
            with at_once:
                if not ended.is_set():
                    _thread.interrupt_main(number)

    def interrupt(number: int, _: object) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            threading.Thread(target=insist, args=(signal.Signals(number),), daemon=True, name="interrupt").start()
        raise KeyboardInterrupt

    replaced: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) is usual:  # not if the caller ignores it, as nohup does
                replaced[number] = signal.signal(number, interrupt)
    try:
        yield
    except Exception as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        with at_once:
            ended.set()
        for changed, handler in replaced.items():
            signal.signal(changed, handler)
