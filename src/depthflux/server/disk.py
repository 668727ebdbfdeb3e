"""Room on the disk that is kept: what was accepted has to be written, however much is sent.

Pictures from clients stop first, since they are what can fill a disk; then everything that is new.
What is left is for the pictures of predictions that were accepted, and for the store.
Knows nothing of what is written.
"""

from __future__ import annotations

import os
from pathlib import Path

from depthflux.images.limits import megabytes
from depthflux.server.errors import StoreError

#: Kept from anything new: the largest outputs of two predictions, and the store's log.
KEPT_BYTES = 64 * 2**20
#: Kept from clients' pictures, of which several may be written at a time.
KEPT_FROM_PICTURES_BYTES = 256 * 2**20
#: At most this part of a small disk is kept for either.
_PART = 20


def require_room(folder: Path, picture_bytes: int = 0) -> None:
    """See that there is room on a disk for something new.

    Args:
        folder: on the disk.
        picture_bytes: of a client's picture that is to be written; 0 where there is none.

    Raises:
        StoreError: there is too little.
    """
    disk = os.statvfs(folder)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    kept = min(KEPT_FROM_PICTURES_BYTES if picture_bytes else KEPT_BYTES, size // _PART)
    if free - picture_bytes < kept:
        what = "pictures are" if picture_bytes else "nothing new is"
        raise StoreError(
            f"{what} taken just now: {megabytes(kept)} of the disk are kept for what was accepted "
            "before; try again when there is more room."
        )
