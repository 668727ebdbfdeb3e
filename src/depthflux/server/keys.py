"""API keys: read once, compared in constant time, never printed.

What is kept of a key is its sha256, so neither a log nor a debugger's view of the server shows one.
An owner is the first digits of it: enough to tell keys apart, nothing to log in with.
Knows nothing of what a key may see.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from depthflux.errors import SettingsError

#: Further keys, separated by commas or white space.
VARIABLE = "DEPTHFLUX_API_KEYS"
#: A shorter key could be guessed by trying.
MIN_CHARACTERS = 16
#: Hexadecimal digits of an owner.
_OWNER_DIGITS = 16
#: What a header can carry.
_PLAIN = re.compile(r"[\x21-\x7e]+", re.ASCII)
_SCHEME = "bearer"


class Keys:
    """The keys that are accepted; without any, everybody is."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Keep the keys' sums.

        Raises:
            SettingsError: one is too short, or holds what a header cannot carry; it is not named.
        """
        found = list(dict.fromkeys(keys))
        for number, key in enumerate(found, start=1):
            if len(key) < MIN_CHARACTERS or not _PLAIN.fullmatch(key):
                raise SettingsError(
                    f"API key {number} of {len(found)} is refused; allowed: {MIN_CHARACTERS} or "
                    "more printable ASCII characters without spaces.",
                    fix="A good one: python -c 'import secrets; print(secrets.token_urlsafe(32))'.",
                )
        self._sums = [hashlib.sha256(key.encode()).digest() for key in found]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._sums)

    def owner(self, authorization: str | None) -> str | None:
        """Whose request it is by its Authorization header; None where the key is not accepted.

        Args:
            authorization: `Bearer KEY`; None where there is none.

        Returns:
            16 hexadecimal digits; empty where no keys are asked for.
        """
        if not self._sums:
            return ""
        scheme, _, key = (authorization or "").strip().partition(" ")
        given = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        # All of them, always: how long it takes says nothing of which one was nearly right.
        right = [hmac.compare_digest(given, known) for known in self._sums]
        if scheme.lower() != _SCHEME or not any(right):
            return None
        return given.hex()[:_OWNER_DIGITS]


def read_keys(file: Path | None, environment: Mapping[str, str]) -> Keys:
    """The keys of a file and of the environment.

    Args:
        file: one key a line; empty lines and those that begin with # are passed over.
        environment: the process's variables.

    Raises:
        SettingsError: the file cannot be read, holds no key, or a key is refused.
    """
    keys = re.split(r"[\s,]+", environment.get(VARIABLE, ""))
    if file is not None:
        keys += _keys_of_file(file.expanduser())
    return Keys(key for key in keys if key)


def _keys_of_file(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise SettingsError(f"api_keys_file: {path} cannot be read: {reason}.") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise SettingsError(
            f"api_keys_file: {path} holds no key.", fix="Write one key a line into it."
        )
    return keys
