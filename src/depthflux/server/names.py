"""Words that nobody can guess, and the time: what rows and files are named and dated with."""

from __future__ import annotations

import re
import secrets
import time
import uuid

#: Bytes of randomness in names that nobody may guess: 192 bits.
SECRET_BYTES = 24

#: What a name in an address may be: a secret, for outputs a picture's index, an extension. No dot
#: or slash leads anywhere else.
FILE_NAME = re.compile(r"[A-Za-z0-9_]{32}(-[0-9])?\.(png|jpeg|webp)", re.ASCII)


def new_id() -> str:
    """32 hexadecimal digits that no other prediction has.

    Never with 429 among them: the hosted service's JavaScript clients repeat the id in their error
    of a failed task and take that number, wherever it stands, for a reason to run it again.
    """
    while "429" in (id := uuid.uuid4().hex):
        continue
    return id


def new_secret() -> str:
    """A word that nobody can guess, of 32 letters, digits and underscores.

    Without a dash, which parts it from what follows in file names.
    """
    return secrets.token_urlsafe(SECRET_BYTES).replace("-", "_")


def is_file_name(name: str) -> bool:
    """Whether it could be the name of an output or an upload."""
    return FILE_NAME.fullmatch(name) is not None


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
