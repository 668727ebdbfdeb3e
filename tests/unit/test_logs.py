"""The log of a server's process: whatever is said by whichever library, one printable line each."""

from __future__ import annotations

import logging
import warnings

import pytest

from depthflux.logs import log_to_standard_error

#: What a library would repeat of a stranger's words.
WORDS = "one\nerror: forged \x1b[2J"
SHOWN = r"one error: forged \x1b[2J"


@pytest.mark.parametrize("name", ["depthflux", "uvicorn.error", "asyncio", "some.library"])
def test_a_library_s_warning_is_one_line_of_the_same_form(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_to_standard_error():
        logging.getLogger(name).warning(WORDS)

    assert capsys.readouterr().err == f"warning: {SHOWN}\n"


def test_a_warning_of_python_s_own_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), log_to_standard_error():
        warnings.simplefilter("always")
        warnings.warn(WORDS, stacklevel=1)

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert SHOWN in line


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("python_multipart.multipart", logging.WARNING),
        ("httpx", logging.INFO),
        ("uvicorn.error", logging.INFO),
    ],
)
def test_what_strangers_cause_and_what_is_not_wrong_is_not_said(
    name: str, level: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_to_standard_error():
        logging.getLogger(name).log(level, WORDS)

    assert capsys.readouterr().err == ""


def test_our_own_messages_are_shown_from_the_level_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = logging.getLogger("depthflux")
    for level in (logging.INFO, logging.WARNING):
        with log_to_standard_error(level):
            ours.info("draining")

    assert capsys.readouterr().err == "info: draining\n"


def test_afterwards_logging_is_as_it_was() -> None:
    loggers = [logging.getLogger(name) for name in ("", "depthflux", "python_multipart")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]

    with log_to_standard_error():
        pass

    assert [(logger.level, list(logger.handlers)) for logger in loggers] == before
