"""The HTML page: whole, self-contained, and deaf to what strangers write into it."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from PIL import Image
from unit.bench.report.sample import failed_document, hosted_document, profiles_document

from depthflux.bench.document import Compared, Document
from depthflux.bench.report.page import page
from depthflux.bench.report.words import as_line

VOID = {"meta", "link", "img", "input", "br"}
#: Elements of SVG that the charts write as empty ones.
EMPTY_SVG = {"line", "circle", "path"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"onload="alert(1)" x="',
    "'onmouseover='alert(1)",
    "</style><img src=x onerror=alert(1)>",
    "</script><svg/onload=alert(1)>",
    "{{7*7}}{% raw %}",
    "&lt;b&gt;",
    "javascript:alert(1)",
    "\u202eturned\u2066\x1b[31m",
    "-->",
)


class Parsed(HTMLParser):
    """A page's elements, and whatever is wrong with their nesting."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.problems: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        self.problems += [f"{tag} is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if len(dict(attrs)) != len(attrs):
            self.problems.append(f"{tag} has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY_SVG:
            self.problems.append(f"{tag} may not be empty")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"{tag} is closed where it is not open")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all_of(self, attribute: str) -> list[str]:
        return [
            attributes[attribute] or ""
            for _, attributes in self.elements
            if attribute in attributes
        ]

    def text_of(self, tag: str) -> str:
        return "".join(self.texts[tag])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def hosted(run: Path) -> Document:
    return hosted_document(run)


@pytest.fixture(scope="module", params=["hosted", "profiles", "all failed"])
def html(request: pytest.FixtureRequest, hosted: Document, run: Path) -> str:
    if request.param == "all failed":
        return page(failed_document(), run).decode()
    document = hosted if request.param == "hosted" else profiles_document(run)
    return page(document, run).decode()


def poisoned(value: Any, hostile: str) -> Any:
    """A document's values with a hostile text in every one that is a text, and in settings' names.

    Sides' names are keys of the pictures and stay, as do the words that the document limits.
    """
    kept = ("name", "kind", "status", "verdict")
    if isinstance(value, list):
        return [poisoned(one, hostile) for one in value]
    if not isinstance(value, dict):
        return f"{value}{hostile}" if isinstance(value, str) else value
    return {
        f"{key}{hostile}" if key in ("dtype", "processors", "torch") else key: one
        if key in kept
        else poisoned(one, hostile)
        for key, one in value.items()
    }


def test_every_element_is_closed_and_ids_are_unique(html: str) -> None:
    parsed = Parsed(html)

    assert parsed.problems == []
    ids = parsed.all_of("id")
    assert len(ids) == len(set(ids))


def test_links_inside_the_page_lead_somewhere(html: str) -> None:
    parsed = Parsed(html)

    fragments = {link[1:] for link in parsed.all_of("href") if link.startswith("#")}
    assert fragments | set(parsed.all_of("aria-labelledby")) <= set(parsed.all_of("id"))
    assert len(fragments) >= 8


def test_nothing_is_asked_of_anyone(html: str) -> None:
    parsed = Parsed(html)

    for address in [*parsed.all_of("src"), *parsed.all_of("href")]:
        assert address.startswith(("data:", "#")) or re.fullmatch(r"[\w./-]+", address), address
    assert not {"style", "srcset", "action"} & {
        name for _, attributes in parsed.elements for name in attributes
    }
    assert re.search(r"@import|url\(", parsed.text_of("style")) is None


def test_the_policy_allows_this_style_and_this_script_alone(html: str) -> None:
    parsed = Parsed(html)

    policy = next(
        attributes["content"] or ""
        for _, attributes in parsed.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    sources = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert sources["default-src"] == "'none'"
    assert sources["img-src"] == "data:"
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(parsed.text_of(tag).encode()).digest()).decode()
        assert sources[f"{tag}-src"] == f"'sha256-{digest}'"
        assert [name for name, _ in parsed.elements].count(tag) == 1


def test_every_embedded_picture_decodes_and_has_words(hosted: Document, run: Path) -> None:
    parsed = Parsed(page(hosted, run).decode())

    pictures = [attributes for tag, attributes in parsed.elements if tag == "img"]
    # 23 whole pairs with two depth maps and one half pair with one, 12 controls with their depth.
    assert len(pictures) == 23 * 4 + 2 + 12 * 2
    for attributes in pictures:
        data = base64.b64decode((attributes["src"] or "").partition(",")[2], validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert picture.size == (int(attributes["width"] or 0), int(attributes["height"] or 0))
        assert attributes["alt"]


def test_originals_are_linked_and_there(hosted: Document, run: Path) -> None:
    parsed = Parsed(page(hosted, run).decode())

    links = {link for link in parsed.all_of("href") if link.endswith((".png", ".jpg"))}
    assert len(links) == 23 + 24
    assert all((run / link).is_file() for link in links)


def test_the_page_says_both_sides_verdicts_and_figures_with_units(
    hosted: Document, run: Path
) -> None:
    text = page(hosted, run).decode()

    assert "<title>depthflux exact against api.wavespeed.ai, 2026-11-30T05:30:00+00:00" in text
    for words in (
        "Structure: depthflux exact is better (+0.021 [+0.006, +0.037] Spearman&#39;s rho",
        "Prompt agreement: no difference shown (−0.2 [−0.7, +0.3] CLIP score",
        "0.61 [0.56, 0.66] times as long as api.wavespeed.ai, over 12 cases",
        "api.wavespeed.ai: 23 of 24 tasks completed, 1 failed.",
        "Difference, which is no quality",
        "Apache-2.0",
        "sha256 5f5f",
    ):
        assert words in text, words


def test_difference_is_no_quality_unless_the_noise_is_shared(run: Path) -> None:
    text = page(profiles_document(run), run).decode()

    assert "no quality" not in text
    assert "Both sides start from the same noise" in text
    assert "every pixel equal" in text


def test_a_page_of_failures_has_all_of_them_and_no_figures() -> None:
    document = failed_document("HTTP 502: Bad Gateway")

    text = page(document, Path("no such folder")).decode()

    assert text.count("HTTP 502: Bad Gateway") == 24
    assert "No task was completed and seen from its beginning, so there are no times." in text
    assert "No side has a picture of this case." in text
    assert "<img" not in text


def test_a_missing_and_a_damaged_picture_are_their_reasons(tmp_path: Path) -> None:
    document = hosted_document(tmp_path)
    (tmp_path / "hosted/case-00-0/0.jpg").unlink()
    (tmp_path / "local/case-01-0/0.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    text = page(document, tmp_path).decode()

    assert "Not shown: No such file or directory." in text
    assert text.count("Not shown: ") == 2
    assert Parsed(text).problems == []


def test_a_flagged_picture_is_linked_and_not_shown(tmp_path: Path) -> None:
    document = hosted_document(tmp_path)
    case = document.cases[0]
    flagged = case.pictures[0].model_copy(update={"flagged": {"hosted": True, "local": False}})
    changed = case.model_copy(update={"pictures": [flagged]})

    text = page(document.model_copy(update={"cases": [changed]}), tmp_path).decode()

    assert "api.wavespeed.ai calls it not safe for work" in text
    assert 'href="hosted/case-00-0/0.jpg"' in text
    # The other side's, its depth, the control image and its depth.
    assert text.count("<img") == 4


def test_pairs_beyond_the_page_s_room_are_linked(tmp_path: Path) -> None:
    document = hosted_document(tmp_path)
    crowded = [
        case.model_copy(update={"name": f"{case.name}-{turn}"})
        for turn in range(4)
        for case in document.cases
    ]

    text = page(document.model_copy(update={"cases": crowded}), tmp_path).decode()

    # The first pair of 40 cases, of 48; no case's second.
    assert text.count('class="pair"') == 40
    assert text.count("not inside this page, linked") == 48
    assert Parsed(text).problems == []


def test_cases_without_a_pair_take_a_place_of_the_page_too(hosted: Document, run: Path) -> None:
    case = hosted.cases[0].model_copy(update={"pictures": []})
    crowd = [case.model_copy(update={"name": f"case-{number}"}) for number in range(60)]

    text = page(hosted.model_copy(update={"cases": crowd}), run).decode()

    assert text.count("<img") == 2 * 40, "of each the control image and its depth"
    assert text.count("No side has a picture of this case.") == 60


def test_of_many_linked_pictures_the_rest_is_counted(hosted: Document, run: Path) -> None:
    pair = hosted.cases[0].pictures[0]
    pairs = [pair.model_copy(update={"task": f"case-00-{number}"}) for number in range(120)]
    case = hosted.cases[0].model_copy(update={"pictures": pairs})

    text = page(hosted.model_copy(update={"cases": [case]}), run).decode()

    assert "80 not inside this page, linked" in text
    assert "And 30 more, in the run&#39;s folder." in text or "And 30 more, in the run's" in text
    assert "case-00-89, seed" in text
    assert "case-00-90, seed" not in text


def test_of_many_failures_the_rest_is_counted(hosted: Document, run: Path) -> None:
    failure = hosted.sides[0].failures[0]
    failures = [failure.model_copy(update={"task": f"lost-{number}"}) for number in range(150)]
    sides = [hosted.sides[0].model_copy(update={"failures": failures}), hosted.sides[1]]

    text = page(hosted.model_copy(update={"sides": sides}), run).decode()

    assert "And 50 more, in report.json." in text
    assert "<bdi>lost-99</bdi>" in text
    assert "<bdi>lost-100</bdi>" not in text


def test_what_a_verdict_cannot_be_read_without_stands_in_the_summary_and_beside_times(
    hosted: Document, run: Path
) -> None:
    document = hosted.model_copy(
        update={
            "quality": [with_caveat(hosted.quality[0], "One judged."), *hosted.quality[1:]],
            "speed": [with_caveat(hosted.speed[0], "It was hot."), *hosted.speed[1:]],
        }
    )

    text = page(document, run).decode()

    assert "over 12 cases). One judged.</span>" in text
    assert "over 12 cases). It was hot.</span>" in text
    assert '<p class="faint">structure: One judged.</p>' in text
    assert '<p class="faint">total time: It was hot.</p>' in text


def with_caveat(compared: Compared, caveat: str) -> Compared:
    return compared.model_copy(update={"caveats": [caveat]})


@pytest.mark.parametrize("profile", ["", "demo"], ids=["hosted", "profile"])
def test_only_of_a_hosted_side_it_is_said_that_its_reading_of_pictures_is_unknown(
    hosted: Document, run: Path, profile: str
) -> None:
    first = hosted.sides[0].model_copy(update={"profile": profile})

    text = page(hosted.model_copy(update={"sides": [first, hosted.sides[1]]}), run).decode()

    assert ("takes it for a depth map is not documented" in text) is (not profile)
    assert "The sides ran one after the other and never at a time" in text


def test_the_driver_stands_in_the_provenance(hosted: Document, run: Path) -> None:
    second = hosted.sides[1].model_copy(update={"gpu": {"driver_version": "570.1"}})

    text = page(hosted.model_copy(update={"sides": [hosted.sides[0], second]}), run).decode()

    assert "depthflux exact, GPU, driver_version</th><td><code>570.1</code>" in text


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("kind", ["hosted", "failed"])
def test_strangers_texts_add_no_element_and_no_attribute(
    kind: str, hostile: str, hosted: Document, run: Path
) -> None:
    document = hosted if kind == "hosted" else failed_document()
    harmless = Document.model_validate(poisoned(document.model_dump(), "~"))
    poison = Document.model_validate(poisoned(document.model_dump(), hostile))
    # Where neither's files are, so that both show the same.
    nowhere = run / "nowhere"

    expected, text = (page(one, nowhere).decode() for one in (harmless, poison))

    shape, wanted = (
        [(tag, sorted(attributes)) for tag, attributes in Parsed(one).elements]
        for one in (text, expected)
    )
    assert shape == wanted
    assert Parsed(text).problems == []
    assert str(escape(as_line(hostile))) in text
    assert not set(text) & {"\u202e", "\u2066", "\x1b"}
