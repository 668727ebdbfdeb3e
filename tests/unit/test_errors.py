"""The error tree: every class says what a process exits with and a server answers."""

from __future__ import annotations

import inspect
import itertools
import time

import numpy as np
import pytest

from depthflux import errors
from depthflux.errors import DepthFluxError, RequestError, SetupError, show, without_secrets

CLASSES = [
    member
    for _, member in inspect.getmembers(errors, inspect.isclass)
    if issubclass(member, DepthFluxError)
]
#: exit code, HTTP status, hosted code. A class that is missing here fails the test below.
EXPECTED = {
    "BusyError": (1, 429, 5000),
    "CancelledError": (130, 500, 5000),
    "DepthFluxError": (1, 500, 5000),
    "DeviceError": (3, 503, 5003),
    "GenerationError": (1, 500, 1403),
    "ImageFetchError": (2, 400, 1402),
    "InvalidParameterError": (2, 400, 1401),
    "LicenceError": (3, 503, 5003),
    "LoraMismatchError": (3, 503, 5003),
    "MissingParameterError": (2, 400, 1400),
    "NonFiniteError": (1, 500, 1403),
    "OutOfMemoryError": (1, 500, 1403),
    "OutputError": (2, 500, 5000),
    "RequestError": (2, 400, 1401),
    "SettingsError": (3, 503, 5003),
    "SetupError": (3, 503, 5003),
    "UnreadableImageError": (2, 400, 1402),
    "WeightsCorruptError": (3, 503, 5003),
    "WeightsMissingError": (3, 503, 5003),
}


def test_every_class_has_its_exit_code_status_and_hosted_code() -> None:
    found = {c.__name__: (c.exit_code, c.http_status, c.hosted_code) for c in CLASSES}

    assert found == EXPECTED


def test_every_class_stands_in_the_tree_that_the_module_draws() -> None:
    assert [c.__name__ for c in CLASSES if c.__name__ not in (errors.__doc__ or "")] == []


def test_a_request_error_carries_field_value_and_what_is_allowed() -> None:
    error = RequestError("size='1*1' is too small", field="size", value="1*1", allowed="512 up")

    assert (error.field, error.value, error.allowed) == ("size", "1*1", "512 up")


def test_a_setup_error_ends_in_what_helps() -> None:
    error = SetupError("no weights in /x.", fix="Run depthflux demo.")

    assert str(error) == "no weights in /x. Run depthflux demo."
    assert error.fix == "Run depthflux demo."


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("abc", "'abc'"),
        (b"\x89PNG", "4 bytes"),
        (np.zeros((2, 2)), "a ndarray"),
        ("x" * 500, "'" + "x" * 58 + "…"),
        (None, "None"),
    ],
    ids=["text", "bytes", "array", "long text", "nothing"],
)
def test_values_are_shown_short(value: object, shown: str) -> None:
    assert show(value) == shown


@pytest.mark.parametrize("length", range(4070, 4110))
@pytest.mark.parametrize("begin", ["//me:", "//me:p@", "https://me@work:"])
def test_of_a_password_that_is_not_read_to_its_end_nothing_is_shown(
    begin: str, length: int
) -> None:
    text = begin + "secret" * 1000
    address = text[:length] + "@127.0.0.1/"

    shown = [show(address), without_secrets(address), without_secrets(f"{' ' * 4000}{address}")]

    assert [one for one in shown if "sec" in one] == []


PIECES = ("/", "//", "//a", "@", "?", "#", " ", "'", "\n")
REPEATED = ["".join(pieces) for pieces in itertools.product(PIECES, repeat=2)]


def test_no_text_takes_long_to_show() -> None:
    """The time of a text that each slash makes longer grows with the square of its length."""

    def cost_s(text: str) -> float:
        begin = time.thread_time()
        show(text)
        return time.thread_time() - begin

    costs = {piece: cost_s(piece * (16_384 // len(piece))) for piece in REPEATED}

    assert {piece: cost for piece, cost in costs.items() if cost > 0.03} == {}
