"""Words that nobody can guess, and the names of files."""

from __future__ import annotations

import re
import time

import pytest

from depthflux.server.names import is_file_name, new_id, new_secret, now_ms


def test_an_id_is_32_hexadecimal_digits_and_never_the_same() -> None:
    ids = [new_id() for _ in range(3000)]

    assert all(re.fullmatch(r"[0-9a-f]{32}", id) for id in ids)
    assert len(set(ids)) == 3000


def test_no_id_holds_a_number_that_old_clients_take_for_a_reason_to_run_it_again() -> None:
    """Of 3000 plain ones 21 would; that none does by chance is once in a thousand million."""
    assert not [id for id in (new_id() for _ in range(3000)) if "429" in id]


def test_a_secret_has_192_bits_and_no_dash() -> None:
    secrets = [new_secret() for _ in range(3000)]

    assert all(re.fullmatch(r"[A-Za-z0-9_]{32}", secret) for secret in secrets)
    assert len(set(secrets)) == 3000
    # Every place takes every kind of character, so none of them is fixed.
    assert all(len({secret[place] for secret in secrets}) == 63 for place in range(32))


@pytest.mark.parametrize("extension", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("index", ["", "-0", "-3"])
def test_names_that_are_made_here_are_names_of_files(index: str, extension: str) -> None:
    assert is_file_name(f"{new_secret()}{index}.{extension}")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "a.png",
        "a" * 32,
        "a" * 32 + ".jpg",
        "a" * 32 + ".Png",
        "a" * 32 + ".png.png",
        "a" * 32 + "-00.png",
        "a" * 32 + "-0.png ",
        "a" * 32 + "-٣.png",
        "a" * 31 + "é.png",
        "../" + "a" * 29 + ".png",
        " " + "a" * 32 + ".png",
        "a" * 32 + ".png\n",
    ],
    ids=ascii,
)
def test_other_names_are_none(name: str) -> None:
    assert not is_file_name(name)


def test_the_time_is_milliseconds_since_1970() -> None:
    before, now, after = time.time(), now_ms(), time.time()

    assert 1000 * before - 1 <= now <= 1000 * after + 1
