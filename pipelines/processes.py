"""Processes, told apart on whatever machine they run."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil


@cache
def machine() -> str:
    """The name of this machine, or container, which no other has, nor itself after a restart.

    Linux tells it by the boot and by the namespace of process ids; elsewhere the name must do.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "-".join(parts)


def name() -> str:
    """The process that calls: MACHINE:PID:START."""
    return f"{machine()}:{os.getpid()}:{_start(os.getpid())}"


def is_gone(process: str) -> bool:
    """Whether a process, by its name, was one of this machine and is no more."""
    where, pid, start = process.rsplit(":", 2)
    if where != machine():
        return False
    try:
        return _start(int(pid)) != start or psutil.Process(int(pid)).status() == "zombie"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return True


@contextmanager
def undisturbed() -> Iterator[None]:
    """A second Ctrl-C, or the end of `mlflow run`, does not end what is written off."""
    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(name, signal.SIG_IGN) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def _start(pid: int) -> str:
    """When a process began: on Linux in ticks since the boot, which no clock that is set moves."""
    if Path("/proc/self/stat").exists():
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return f"{psutil.Process(pid).create_time():.2f}"
