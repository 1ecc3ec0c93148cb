"""Processes, told apart on whatever machine they run."""

import os
import socket

import psutil


def owner() -> str:
    """The process that calls, on its machine, by when it started."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_gone(of: str) -> bool:
    """Whether an owner was a process of this machine, and is no more."""
    host, pid, started = of.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(pid))
        return f"{process.create_time():.2f}" != started or process.status() == "zombie"
    except psutil.NoSuchProcess:
        return True
