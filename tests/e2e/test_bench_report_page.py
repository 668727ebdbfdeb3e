"""The comparison's page in a real browser: what is seen, with and without a mouse.

Chromium opens the file itself; anything that it would ask of anyone fails the tests.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from unit.bench.report.sample import failed_document, hosted_document

from depthflux.bench.report.page import page as report_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

#: As root and without a sandbox's rights, and without anything of its own to ask the network for.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, NARROW = 1280, 380
#: Sides of the sample's pictures are this far apart in brightness, of 255.
APART = 20.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium, Debian's package chromium; none is on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    path = folder / "report.html"
    path.write_bytes(report_page(hosted_document(folder), folder))
    return path


class Watched:
    """A page in a window, and everything that it asked for or complained of."""

    def __init__(self, browser: Browser, path: Path, width: int = WIDE, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def outside_requests(self, path: Path) -> list[str]:
        return [
            url for url in self.requests if url != path.as_uri() and not url.startswith("data:")
        ]

    def pair(self) -> Locator:
        return self.page.locator("figure.pair").first


@pytest.fixture
def watch(browser: Browser, report: Path) -> Iterator[Any]:
    opened: list[Watched] = []

    def open_page(path: Path = report, **options: Any) -> Watched:
        opened.append(Watched(browser, path, **options))
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()


def pixels(shot: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A screenshot, [H, W, 3], 0..255."""
    with Image.open(io.BytesIO(shot)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float64)


def brightness(layers: Locator) -> tuple[float, float]:
    """Mean of the left and of the right quarter of a pair, its labels left out."""
    seen = pixels(layers.screenshot())
    seen = seen[: seen.shape[0] * 3 // 4]
    quarter = seen.shape[1] // 4
    return float(seen[:, :quarter].mean()), float(seen[:, -quarter:].mean())


def box(locator: Locator) -> dict[str, float]:
    found = locator.bounding_box()
    assert found is not None
    return dict(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_complains_of_nothing_and_asks_for_nothing(
    watch: Any, report: Path, scheme: str
) -> None:
    seen = watch(color_scheme=scheme)

    seen.page.wait_for_load_state("networkidle")

    assert seen.complaints == []
    assert seen.outside_requests(report) == []
    assert seen.page.evaluate(
        "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    )


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("kind", ["hosted", "failed"])
def test_nothing_overflows_to_the_side(
    watch: Any, report: Path, tmp_path: Path, width: int, kind: str
) -> None:
    path = report
    if kind == "failed":
        path = tmp_path / "report.html"
        long = "an-error-without-a-blank-" * 20
        path.write_bytes(report_page(failed_document(long), tmp_path))

    seen = watch(path, width=width)

    for details in seen.page.locator("details").all():
        details.locator("summary").first.click()
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_policy_s_violation_would_have_been_noticed(
    watch: Any, report: Path, tmp_path: Path
) -> None:
    path = tmp_path / "changed.html"
    html = report.read_text(encoding="utf-8")
    path.write_text(html.replace("</main>", "<script>window.ran = 1</script></main>"))

    seen = watch(path)

    assert seen.page.evaluate("window.ran === undefined")
    assert any("Content Security Policy" in text for text in seen.complaints)


def test_dragging_across_a_picture_moves_the_divide(watch: Any) -> None:
    seen = watch()
    layers = seen.pair().locator(".layers")
    layers.scroll_into_view_if_needed()
    place = box(layers)
    middle = place["y"] + place["height"] / 3
    bright, dark = brightness(layers)

    seen.page.mouse.move(place["x"] + place["width"] / 2, middle)
    seen.page.mouse.down()
    seen.page.mouse.move(place["x"] + place["width"] - 4, middle, steps=5)
    seen.page.mouse.up()
    first_alone = brightness(layers)
    seen.page.mouse.move(place["x"] + 10, middle)
    after_letting_go = brightness(layers)

    assert bright > dark + APART
    assert first_alone[1] > dark + APART
    assert after_letting_go == first_alone
    assert int(seen.pair().locator("input").input_value()) >= 98


def test_the_slider_works_with_the_keyboard_alone(watch: Any) -> None:
    seen = watch()
    layers, slider = seen.pair().locator(".layers"), seen.pair().locator("input")
    bright, dark = brightness(layers)

    slider.focus()
    seen.page.keyboard.press("Home")
    second_alone = brightness(layers)
    seen.page.keyboard.press("End")
    first_alone = brightness(layers)
    seen.page.keyboard.press("ArrowLeft")

    assert second_alone[0] < bright - APART
    assert first_alone[1] > dark + APART
    assert slider.input_value() == "99"


def test_the_button_flips_between_both_with_the_keyboard_too(watch: Any) -> None:
    seen = watch()
    layers, button = seen.pair().locator(".layers"), seen.pair().locator("button")

    button.click()
    one = brightness(layers)
    button.focus()
    seen.page.keyboard.press("Enter")
    other = brightness(layers)
    seen.page.keyboard.press("Space")
    again = brightness(layers)

    assert abs(one[0] - other[0]) > APART
    assert abs(one[1] - other[1]) > APART
    assert again == one


def test_without_a_script_both_pictures_stand_side_by_side(watch: Any) -> None:
    seen = watch(java_script_enabled=False)

    first, second = (box(layer) for layer in seen.pair().locator(".layer").all())

    assert first["x"] + first["width"] <= second["x"]
    assert first["y"] == second["y"]
    assert not seen.pair().locator(".controls").is_visible()
    bright, dark = brightness(seen.pair().locator(".layers"))
    assert bright > dark + APART


def test_on_paper_both_pictures_stand_side_by_side(watch: Any) -> None:
    seen = watch()
    seen.pair().locator("button").click()

    seen.page.emulate_media(media="print")

    first, second = (box(picture) for picture in seen.pair().locator(".layer img").all())
    assert first["x"] + first["width"] <= second["x"]
    assert (first["y"], first["height"]) == (second["y"], second["height"])
    tags = [box(tag) for tag in seen.pair().locator(".tag").all()]
    caption = box(seen.pair().locator("figcaption").first)
    assert all(tag["y"] + tag["height"] <= caption["y"] for tag in tags)
    assert not seen.pair().locator(".controls").is_visible()
    bright, dark = brightness(seen.pair().locator(".layers"))
    assert bright > dark + APART


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_main_parts_are_where_they_should_be(watch: Any, width: int) -> None:
    seen = watch(width=width)

    places = [
        box(seen.page.locator(f"#{part}"))
        for part in ("short", "sides", "time", "quality", "difference", "cases", "method")
    ]

    assert [place["y"] for place in places] == sorted(place["y"] for place in places)
    assert all(place["x"] >= 0 and place["x"] + place["width"] <= width for place in places)
    # The verdicts are seen without scrolling far, before any table.
    assert places[0]["y"] < 320
    verdict = seen.page.locator(".verdicts li").first
    assert "depthflux exact is better" in verdict.inner_text()
    assert box(verdict)["y"] < 400


def test_a_forest_s_better_row_has_its_mark_right_of_the_neutral_line(watch: Any) -> None:
    seen = watch()
    strip = seen.page.locator(".forest .strip").first

    mark, neutral = (box(strip.locator(part)) for part in (".diamond", ".neutral"))

    assert mark["x"] > neutral["x"] + neutral["width"]
    coloured = pixels(strip.screenshot())
    blue = (coloured[..., 2] - coloured[..., 0]) > 60
    assert blue.sum() > 200
    assert np.flatnonzero(blue.any(axis=0)).min() > coloured.shape[1] / 2


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_letters_in_charts_are_of_one_size_at_any_width(watch: Any, width: int) -> None:
    seen = watch(width=width)

    heights = {
        round(box(text)["height"]) for text in seen.page.locator(".forest .strip text").all()
    }

    assert len(heights) == 1
    assert heights.pop() >= 11


def test_dark_is_dark_and_light_is_light_and_neither_is_blank(watch: Any) -> None:
    shots = {
        scheme: pixels(watch(color_scheme=scheme).page.screenshot()) for scheme in ("light", "dark")
    }

    assert np.median(shots["light"]) > 240
    assert np.median(shots["dark"]) < 40
    for seen in shots.values():
        assert seen.std() > 15


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_the_contrast_of_level_aa(watch: Any, scheme: str) -> None:
    seen = watch(color_scheme=scheme)

    colours = seen.page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const names = ["paper", "sheet", "soft", "ink", "faint", "first", "second"];
          const value = (name) => style.getPropertyValue(`--${name}`);
          return Object.fromEntries(names.map((name) => [name, value(name)]));
        }"""
    )

    for text, least in (("ink", 4.5), ("faint", 4.5), ("first", 3.0), ("second", 3.0)):
        for ground in ("paper", "sheet", "soft"):
            assert contrast(colours[text], colours[ground]) >= least, (text, ground)


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast of two colours such as `#1e2126`."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    digits = colour.strip().removeprefix("#")
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
