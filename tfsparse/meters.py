"""Measures what a piece of work takes: wall time, CPU time, peak memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Iterator


@contextlib.contextmanager
def metered() -> Iterator[dict[str, float]]:
    """Fills the dict that it gives when the block ends.

    Yields:
        A dict; afterwards it holds `seconds` (wall), `cpu_seconds` (all threads) and,
        where the system tells, `peak_memory_bytes` (resident, within the block).
    """
    measured: dict[str, float] = {}
    resets = _reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    yield measured
    measured["seconds"] = time.perf_counter() - wall
    measured["cpu_seconds"] = time.process_time() - cpu
    if resets:
        measured["peak_memory_bytes"] = _peak_bytes()


def release_memory() -> None:
    """Gives memory of dropped models back to the system, so far as it takes it."""
    gc.collect()  # models and their traced functions hang in reference cycles
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc only


def machine_bytes() -> int | None:
    """The memory of this machine, in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _reset_peak() -> bool:
    """Restarts Linux's high-water mark of this process; False elsewhere."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _peak_bytes() -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
