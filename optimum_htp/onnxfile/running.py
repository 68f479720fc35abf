"""What ONNX Runtime may take with a graph that may be anybody's: a time, and memory; and Ctrl-C ends it at once.

A call into it runs in a thread, while the one that asked waits for it, for Ctrl-C and for the end of the time, and then has
ONNX Runtime give up. The memory is limited by the system (`RLIMIT_DATA`, on Linux; shared between threads, and put back
after the call): what is too much is refused to ONNX Runtime, which says so.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from optimum_htp.errors import HtpError

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 600.0
"""How long one call may take; loading and running real models on this machine takes seconds, seldom a minute."""

_GRACE_S = 1.0  # until a call that was told to give up has done so
_LOOK_S = 0.2
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one call may take: seconds, and bytes of memory beyond what the process has; None for no limit."""

    seconds: float | None = DEFAULT_TIMEOUT_S
    memory_bytes: int | None = None


_USUAL = RunLimits()
_limits: ContextVar[RunLimits] = ContextVar("limits", default=_USUAL)
_abandoned: list[threading.Thread] = []


@contextmanager
def run_limits(*, seconds: float | None = None, memory_bytes: int | None = None) -> Iterator[None]:
    """Limits the calls in the block; None leaves what holds."""
    before = _limits.get()
    limits = replace(
        before,
        seconds=before.seconds if seconds is None else seconds,
        memory_bytes=before.memory_bytes if memory_bytes is None else memory_bytes,
    )
    token = _limits.set(limits)
    try:
        yield
    finally:
        _limits.reset(token)


def limited(call: Callable[[], T], stop: Callable[[], Any], *, name: str, who: str = "ONNX Runtime") -> T:
    """The result of a call into ONNX Runtime, or who else runs graphs, or what it raises. `stop` has it give up, from another thread.

    Raises HtpError, with `name`, when the time is over.
    """
    limits = _limits.get()
    done = threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
    with _memory(limits.memory_bytes):
        thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True, name="onnxruntime")
        thread.start()
        try:
            while not done.wait(_LOOK_S):
                if deadline is not None and time.monotonic() > deadline:
                    raise HtpError(
                        f"{name}: {who} was not done after {limits.seconds:g} s; if you trust the graph, "
                        "give it more: --timeout SECONDS (timeout=)"
                    )
        except BaseException:
            _abandoned.append(thread)  # as long as it lives: another Ctrl-C must not keep that from being known
            with suppress(Exception):
                stop()
            done.wait(_GRACE_S)
            raise
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def is_abandoned() -> bool:
    """Whether a call goes on that did not give up: a process that wants to end must not wait for it."""
    return any(thread.is_alive() for thread in _abandoned)


def out_of_memory(error: BaseException) -> str | None:
    """What to say if ONNX Runtime failed because it wanted more memory than it may have; None if it did not."""
    text = str(error)
    limit = _limits.get().memory_bytes
    if not isinstance(error, MemoryError) and not re.search(r"[Ff]ailed to allocate memory|bad_alloc", text):
        return None
    if limit is None:
        return "it needs more memory than there is"
    return f"it needs more memory than the {limit:,} bytes that it may have; give it more: --max-memory SIZE"


# --- Memory -------------------------------------------------------------------------------------------------------

_memory_lock = threading.Lock()
_inside = 0
_before: tuple[int, int] | None = None


def data_bytes() -> int | None:
    """The memory that this process has for data, as `RLIMIT_DATA` counts it; None where the system does not say."""
    try:
        match = re.search(rb"VmData:\s+(\d+) kB", _STATUS.read_bytes())
    except OSError:
        return None
    return int(match[1]) << 10 if match is not None else None


def limit_process_memory(allowed_bytes: int) -> None:
    """Limits the memory of this process for good to so much more than it has now."""
    _limits.set(replace(_limits.get(), memory_bytes=allowed_bytes))
    present = data_bytes()
    if present is None:
        return
    import resource as limits

    resource: Any = limits  # its types have nothing on Windows, where this is never reached

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = present + allowed_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


@contextmanager
def _memory(allowed_bytes: int | None) -> Iterator[None]:
    """Limits the memory of the process in the block, for all of its threads, as one limit holds for all."""
    global _inside, _before
    present = data_bytes() if allowed_bytes is not None else None
    if allowed_bytes is None or present is None:
        yield
        return
    import resource as limits

    resource: Any = limits  # its types have nothing on Windows, where this is never reached

    with _memory_lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = present + allowed_bytes
        if not _inside:
            _before = (soft, hard)
        elif soft != resource.RLIM_INFINITY:
            wanted = max(wanted, soft)
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        first = _before[0] if _before is not None else resource.RLIM_INFINITY
        if first == resource.RLIM_INFINITY or wanted < first:
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
        _inside += 1
    try:
        yield
    finally:
        with _memory_lock:
            _inside -= 1
            if not _inside and _before is not None:
                resource.setrlimit(resource.RLIMIT_DATA, _before)
