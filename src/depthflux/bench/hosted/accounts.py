"""The API key of the hosted side: read from the environment, and nowhere shown.

An option would show it to everybody on the machine, so there is none. Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Mapping

from depthflux.errors import SettingsError

#: As the official clients call it, so that who has one set need not set another.
KEY_VARIABLE = "WAVESPEED_API_KEY"
#: Shorter ones could be guessed; and where a key must be taken out of an answer that echoes it, a
#: word of a few letters would take other words with it.
_LEAST_CHARACTERS = 16
#: No key is longer; a whole file that was put there by mistake is.
_MOST_CHARACTERS = 1024


def read_key(environment: Mapping[str, str]) -> str:
    """The hosted API key.

    Args:
        environment: such as `os.environ`.

    Raises:
        SettingsError: there is none, or it holds what no key holds.
    """
    key = environment.get(KEY_VARIABLE, "")
    if not key:
        raise SettingsError(
            f"{KEY_VARIABLE} is not set, and the hosted side answers no one without a key.",
            fix=f"Set it in the environment: export {KEY_VARIABLE}=… (or compare without it: "
            "--replay, --against-profile).",
        )
    check_key(key)
    return key


def check_key(key: str, name: str = KEY_VARIABLE) -> None:
    """See that a key can stand in a header as it is.

    Args:
        key: never repeated in a message.
        name: where it was given, for messages.

    Raises:
        SettingsError: it is too short or too long, or has spaces, control or non-ASCII characters.
    """
    odd = [at for at, character in enumerate(key, start=1) if not "!" <= character <= "~"]
    allowed = f"{_LEAST_CHARACTERS} to {_MOST_CHARACTERS} are allowed"
    if odd:
        problem = f"has a space, a line break or no ASCII as its {odd[0]}. character"
    elif not _LEAST_CHARACTERS <= len(key) <= _MOST_CHARACTERS:
        problem = f"has {len(key)} characters; {allowed}"
    else:
        return
    raise SettingsError(
        f"{name} is no API key: it {problem}.", fix="Copy it again, without anything around it."
    )
