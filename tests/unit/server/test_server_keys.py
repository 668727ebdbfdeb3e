"""API keys: who is let in, and that none of them is ever shown."""

from __future__ import annotations

import hashlib
import re
import traceback
from pathlib import Path

import pytest

from depthflux.errors import SettingsError
from depthflux.server.keys import Keys, read_keys

ONE, TWO = "one-key-of-these-tests", "another-key-of-these-tests"


def test_a_key_is_its_owners_and_two_keys_are_two_owners() -> None:
    keys = Keys([ONE, TWO])

    one, two = keys.owner(f"Bearer {ONE}"), keys.owner(f"Bearer {TWO}")

    assert one == hashlib.sha256(ONE.encode()).hexdigest()[:16]
    assert two not in (None, one)
    assert len(keys) == 2


def test_an_owner_stays_the_same_whatever_other_keys_there_are() -> None:
    assert Keys([ONE]).owner(f"Bearer {ONE}") == Keys([TWO, ONE]).owner(f"Bearer {ONE}")


@pytest.mark.parametrize(
    "header",
    [f"Bearer {ONE}", f"bearer {ONE}", f"BEARER {ONE}", f"  Bearer   {ONE}  "],
    ids=["plain", "lower case", "upper case", "spaces"],
)
def test_a_scheme_is_read_whatever_its_case(header: str) -> None:
    assert Keys([ONE]).owner(header) is not None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "Bearer",
        "Bearer ",
        ONE,
        f"Basic {ONE}",
        f"Token {ONE}",
        f"Bearer{ONE}",
        f"Bearer {ONE}x",
        f"Bearer {ONE[:-1]}",
        f"Bearer {ONE.upper()}",
        f"Bearer {ONE}, Bearer {TWO}",
        f"Bearer {ONE} {TWO}",
        "Bearer " + "x" * 100_000,
        "Bearer schlüssel-schlüssel",
        "Bearer \udcff\udcfe",
        f"Bearer {hashlib.sha256(ONE.encode()).hexdigest()}",
    ],
    ids=lambda header: ascii(header)[:40],
)
def test_whatever_is_no_key_is_answered_with_the_same_nothing(header: str | None) -> None:
    assert Keys([ONE, TWO]).owner(header) is None


@pytest.mark.parametrize("header", [None, "Bearer anything", "nonsense"])
def test_without_keys_everybody_is_let_in_as_nobody(header: str | None) -> None:
    assert Keys([]).owner(header) == ""
    assert len(Keys([])) == 0


def test_every_key_is_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long an answer takes must not say which key was right, or that one was."""
    import hmac

    compared: list[int] = []
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(len(b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = Keys([ONE, TWO, "a-third-key-of-these-tests"])

    for header in (f"Bearer {ONE}", "Bearer wrong", None, f"Basic {ONE}"):
        compared.clear()
        keys.owner(header)

        assert compared == [32, 32, 32]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("brief", id="brief"),
        pytest.param("x" * 15, id="15 characters"),
        pytest.param("with a space in it", id="space"),
        pytest.param("with\ttab-in-the-key", id="tab"),
        pytest.param("schlüssel-schlüssel", id="not ASCII"),
        pytest.param("\0" * 20, id="NUL"),
    ],
)
def test_a_key_that_is_refused_is_named_by_its_number_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match=r"API key 2 of 2 is refused; allowed: 16 or") as caught:
        Keys([ONE, key])

    assert "secrets.token_urlsafe" in caught.value.fix
    assert key not in "".join(traceback.format_exception(caught.value, chain=True))


def test_the_command_that_a_refusal_names_gives_a_key_that_is_accepted() -> None:
    import secrets

    key = secrets.token_urlsafe(32)

    assert Keys([key]).owner(f"Bearer {key}")


def test_no_key_stands_in_what_is_printed_or_kept() -> None:
    keys = Keys([ONE])

    kept = f"{keys!r} {keys} {vars(keys)}"

    assert ONE not in kept


def test_a_key_that_is_named_twice_is_one_key() -> None:
    assert len(Keys([ONE, ONE])) == 1


# Where they come from ---------------------------------------------------------------------------


def test_a_file_holds_a_key_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{ONE}\n\n   {TWO}   \r\n#{ONE}x\n")

    keys = read_keys(file, {})

    assert len(keys) == 2
    assert keys.owner(f"Bearer {TWO}")
    assert keys.owner(f"Bearer #{ONE}x") is None


@pytest.mark.parametrize("text", [f"{ONE},{TWO}", f"{ONE} {TWO}", f" {ONE}\n,\t{TWO},\n"])
def test_the_environment_holds_keys_between_commas_or_spaces(text: str) -> None:
    keys = read_keys(None, {"DEPTHFLUX_API_KEYS": text})

    assert len(keys) == 2
    assert keys.owner(f"Bearer {ONE}")
    assert keys.owner(f"Bearer {TWO}")


def test_keys_of_the_file_and_of_the_environment_are_accepted_together(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(ONE)

    keys = read_keys(file, {"DEPTHFLUX_API_KEYS": TWO, "API_KEYS": "not-one-of-ours-at-all"})

    assert len(keys) == 2


@pytest.mark.parametrize(
    "environment", [{}, {"DEPTHFLUX_API_KEYS": ""}, {"DEPTHFLUX_API_KEYS": ","}]
)
def test_without_a_file_and_a_variable_there_are_none(environment: dict[str, str]) -> None:
    assert len(read_keys(None, environment)) == 0


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# only a remark\n"], ids=["empty", "lines", "remark"]
)
def test_a_file_without_a_key_is_refused_since_it_would_let_everybody_in(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(text)

    with pytest.raises(SettingsError, match=f"{re.escape(str(file))} holds no key"):
        read_keys(file, {"DEPTHFLUX_API_KEYS": ONE})


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"\xff\xfe" + ONE.encode(), "no UTF-8 text")],
    ids=["missing", "binary"],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(SettingsError, match=f"cannot be read: .*{reason}") as caught:
        read_keys(file, {})

    assert ONE not in str(caught.value)
