"""What the HTML page says in words, as a stranger reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from unit.bench.report.sample import hosted_document

from depthflux.bench.document import Document
from depthflux.bench.report.page import page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def hosted(run: Path) -> Document:
    return hosted_document(run)


def test_one_of_a_thing_is_no_several(hosted: Document, run: Path) -> None:
    speed = [one.model_copy(update={"cases": 1}) for one in hosted.speed]
    seconds = hosted.sides[0].seconds
    assert seconds.total is not None
    one = seconds.model_copy(update={"total": seconds.total.model_copy(update={"count": 1})})
    first = hosted.sides[0].model_copy(update={"seconds": one})
    changed = {"speed": speed, "sides": [first, hosted.sides[1]], "cases": hosted.cases[:1]}

    text = page(hosted.model_copy(update=changed), run).decode()

    assert re.search(r"(?<![\d.])1 (cases|tasks|pictures|pairs|values)\b", text) is None
    assert ">1 case<" in text
    assert ">1 task<" in text
    assert "for the same case, " in text


def test_pictures_that_differ_are_not_written_as_equal(hosted: Document, run: Path) -> None:
    case = hosted.cases[0]
    pair = case.pictures[0].model_copy(update={"ssim": 0.99994, "is_equal": False})
    alike = case.model_copy(update={"pictures": [pair]})

    text = page(hosted.model_copy(update={"cases": [alike]}), run).decode()

    assert "SSIM 0.9999" in text
    assert "SSIM 1" not in text


@pytest.mark.parametrize(
    ("remember", "is_said"), [("none", True), ("disk", False)], ids=["nothing", "all"]
)
def test_of_a_local_server_that_remembers_nothing_it_is_said(
    hosted: Document, run: Path, remember: str, is_said: bool
) -> None:
    second = hosted.sides[1].model_copy(update={"settings": {"remember": remember}})

    text = page(hosted.model_copy(update={"sides": [hosted.sides[0], second]}), run).decode()

    assert ("remembers nothing between requests (remember=none)" in text) is is_said


def test_what_a_hosted_picture_costs_and_which_inference_counts_is_said(
    hosted: Document, run: Path
) -> None:
    text = page(hosted, run).decode()

    assert "what was charged over the pictures that were received" in text
    assert "longer than its task took" in text
