"""How much of some files is in memory already: what makes a start warm or cold.

The kernel's page cache cannot be emptied without harm to whatever else runs, so a start is not made
cold; it is said how warm it is. Knows nothing of what the files are.
"""

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def resident_share(paths: Iterable[Path]) -> float | None:
    """The share of the files' pages that are in the page cache, 0 to 1; None if it is not told."""
    counts = [_resident_pages(path) for path in paths]
    pages = sum(count[1] for count in counts if count is not None)
    if None in counts or not pages:
        return None
    return round(sum(count[0] for count in counts if count is not None) / pages, 4)


def _resident_pages(path: Path) -> tuple[int, int] | None:
    """Pages in memory and pages of all, by mincore(2); None where it cannot be called."""
    mincore = getattr(ctypes.CDLL(None, use_errno=True), "mincore", None)
    if mincore is None or not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        view = np.frombuffer(mapped, dtype=np.uint8)
        pages = -(-view.nbytes // mmap.PAGESIZE)
        residency = np.zeros(pages, dtype=np.uint8)
        failed = mincore(
            ctypes.c_void_p(view.ctypes.data),
            ctypes.c_size_t(view.nbytes),
            ctypes.c_void_p(residency.ctypes.data),
        )
        del view  # a mapping cannot be closed while an array looks into it
    return None if failed else (int((residency & 1).sum()), pages)
