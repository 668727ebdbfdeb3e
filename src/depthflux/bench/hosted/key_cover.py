r"""The API key out of whatever a side says, however it spells it.

A side that echoes a request may escape it: `\u0073` and `\/` in JSON, `%73` in an address,
`&#115;` in a page. Whoever reads such a text, a program or a person, has the key. Knows nothing of
answers.
"""

from __future__ import annotations

import functools
import json
import re
from contextlib import suppress

HIDDEN = "…"
#: What JSON, addresses and HTML escape with. Bodies without any of them, such as base64, are
#: searched for the key as it is, which is a hundred times quicker.
_ESCAPES = (b"\\", b"%", b"&")
_NAMED = {"&": "amp", '"': "quot", "'": "apos", "<": "lt", ">": "gt"}


def without_key(text: str, key: str) -> str:
    """A text with an ellipsis for the key, wherever it stands and however it is escaped."""
    return _pattern(key).sub(HIDDEN, text)


def bytes_without_key(data: bytes, key: str) -> bytes:
    """An answer's body likewise; one that is UTF-16 or UTF-32 becomes UTF-8."""
    if b"\0" in data:
        with suppress(UnicodeDecodeError):
            # As JSON is read: else the key would come out of it there.
            text = data.decode(json.detect_encoding(data), "surrogatepass")
            data = text.encode("utf-8", "surrogatepass")
    if any(escape in data for escape in _ESCAPES) or key.lower().encode() in data.lower():
        return _bytes_pattern(key).sub(HIDDEN.encode(), data)
    return data


def holds_key(text: str, key: str) -> bool:
    """Whether the key stands in a text, escaped or not."""
    return _pattern(key).search(text) is not None


@functools.lru_cache(maxsize=8)
def _pattern(key: str) -> re.Pattern[str]:
    return re.compile("".join(map(_any_spelling, key)), re.IGNORECASE)


@functools.lru_cache(maxsize=8)
def _bytes_pattern(key: str) -> re.Pattern[bytes]:
    return re.compile(_pattern(key).pattern.encode(), re.IGNORECASE)


def _any_spelling(character: str) -> str:
    """One character of the key, in JSON, in an address or in HTML, each escaped several times.

    What may repeat is bounded, or a body of nothing but backslashes would take for ever.
    """
    number = f"{ord(character):02x}"
    in_json = rf"\\{{0,8}}(?:{re.escape(character)}|u00{number}|x{number})"
    in_address = f"%(?:25){{0,4}}{number}"
    in_html = f"&(?:amp;){{0,4}}#(?:0{{0,6}}{ord(character)}|x0{{0,6}}{number});?"
    named = f"|&{_NAMED[character]};" if character in _NAMED else ""
    return f"(?:{in_json}|{in_address}|{in_html}{named})"
