"""What processes use, from /proc: memory, open files, threads, CPU time. Linux only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
#: utime and stime among the fields of /proc/PID/stat that come after the command's name.
_USER, _SYSTEM = 11, 12


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a process holds.

    Attributes:
        resident_mb: memory, in millions of bytes; what others share with it counts, too.
        own_mb: the part of it that no file backs.
        files: open file descriptors.
        threads: of it.
    """

    resident_mb: float
    own_mb: float
    files: int
    threads: int


def usage(pid: int) -> Usage:
    """What a process holds now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return Usage(
        resident_mb=_megabytes(fields["VmRSS"]),
        own_mb=_megabytes(fields["RssAnon"]),
        files=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(fields["Threads"]),
    )


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, its threads' included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS_A_SECOND


def busy_seconds() -> float:
    """CPU time that everything on this machine has used."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = (
        int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICKS_A_SECOND


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; what is deleted meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _megabytes(field: str) -> float:
    """Of a text such as ` 1234 kB`, which means KiB."""
    return int(field.split()[0]) * 1024 / 1e6
