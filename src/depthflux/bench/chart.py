"""A speed document as a picture: a bar for every system at every size.

A bar's dark part is denoising, its light part the rest of the call, both medians of new tasks; the
whisker reaches from the quickest to the slowest whole call. Knows nothing of measuring.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from depthflux.bench.plan import BASELINES
from depthflux.bench.table import why_missing

WIDTH = 1280
MARGIN = 32
#: Left of the bars stand the systems' names, right of them the figures.
NAME_WIDTH = 150
LABEL_WIDTH = 400
BAR, ROW = 26, 44
HEADING = 46
TITLE_SIZE, TEXT_SIZE = 24, 18
PAPER, INK, FAINT, RULE = (255, 255, 255), (40, 42, 46), (120, 124, 130), (210, 213, 218)
#: Denoising and the rest, of what depthflux is held against and of depthflux.
BASELINE_COLOURS = ((112, 118, 128), (198, 202, 208))
TIER_COLOURS = ((31, 105, 180), (163, 200, 235))
#: Beside what a tier's ratio stands.
REFERENCE = "E"


def draw_chart(document: dict[str, Any]) -> Image.Image:
    """Draw a document of `run_speed`, mode RGB, 1280 pixels wide."""
    systems = document["systems"]
    panel = HEADING + ROW * len(systems)
    height = 2 * (MARGIN + ROW) + (panel + MARGIN) * len(document["sizes"])
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_title(draw, document)
    top = MARGIN + 2 * ROW
    for size, measured in document["sizes"].items():
        _draw_panel(draw, top, document, size, measured)
        top += panel + MARGIN
    _draw_legend(draw, top)
    return picture


def chart_file(document: dict[str, Any]) -> bytes:
    """The chart as a PNG file."""
    buffer = BytesIO()
    draw_chart(document).save(buffer, "PNG")
    return buffer.getvalue()


def _draw_title(draw: ImageDraw.ImageDraw, document: dict[str, Any]) -> None:
    plan, sizes = document["plan"], ", ".join(document["sizes"])
    _text(draw, MARGIN, MARGIN, f"{document['card']['model']}, {sizes}", size=TITLE_SIZE)
    images = plan["num_images"]
    pictures = "1 picture" if images == 1 else f"{images} pictures"
    line = (
        f"{document['device']['name']}, {plan['dtype']}, {plan['steps']} steps, {pictures}, "
        f"median of {plan['repeat']} interleaved rounds, {document['date'][:10]}"
    )
    _text(draw, MARGIN, MARGIN + 38, line, fill=FAINT)


def _draw_panel(
    draw: ImageDraw.ImageDraw, top: int, document: dict[str, Any], size: str, measured: Any
) -> None:
    _text(draw, MARGIN, top + 8, size)
    draw.line((MARGIN, top + HEADING - 8, WIDTH - MARGIN, top + HEADING - 8), fill=RULE)
    longest = max(
        (system["new"]["wall_seconds"]["max"] for system in measured["systems"].values()),
        default=1.0,
    )
    scale = (WIDTH - 2 * MARGIN - NAME_WIDTH - LABEL_WIDTH) / longest
    for row, (name, system) in enumerate(document["systems"].items()):
        y = top + HEADING + row * ROW
        _text(draw, MARGIN, y + 2, name)
        if name not in measured["systems"]:
            reason = _fitted(why_missing(name, system, measured))
            _text(draw, MARGIN + NAME_WIDTH, y + 2, reason, fill=FAINT)
            continue
        figures = measured["systems"][name]["new"]
        end = _draw_bar(draw, y, figures, scale, is_tier=name not in BASELINES)
        _text(draw, end + 14, y + 2, _label(name, measured))


def _draw_bar(
    draw: ImageDraw.ImageDraw, y: int, figures: dict[str, Any], scale: float, *, is_tier: bool
) -> float:
    """Draw a bar and its whisker; where its right end is, in pixels."""
    dark, light = TIER_COLOURS if is_tier else BASELINE_COLOURS
    left = MARGIN + NAME_WIDTH
    wall = figures["wall_seconds"]
    denoise = left + scale * figures["denoise_seconds"]["median"]
    draw.rectangle((left, y, left + scale * wall["median"], y + BAR), fill=light)
    draw.rectangle((left, y, denoise, y + BAR), fill=dark)
    low, high = (float(left + scale * wall[end]) for end in ("min", "max"))
    middle = y + BAR // 2
    draw.line((low, middle, high, middle), fill=INK, width=2)
    for x in (low, high):
        draw.line((x, middle - 6, x, middle + 6), fill=INK, width=2)
    return high


def _label(name: str, measured: dict[str, Any]) -> str:
    """A system's median, and how many times faster than E it is."""
    figures = measured["systems"][name]["new"]
    text = f"{figures['wall_seconds']['median']:.3g} s"
    text += f", denoising {figures['denoise_seconds']['median']:.3g} s"
    ratio = measured["ratios"].get(f"{REFERENCE}/{name}")
    return text if ratio is None else f"{text}, {REFERENCE}/{name} {ratio['denoise']['median']:.2f}"


def _draw_legend(draw: ImageDraw.ImageDraw, top: int) -> None:
    x = MARGIN
    for colours, words in _legend():
        draw.rectangle((x, top + 2, x + 18, top + 20), fill=colours)
        _text(draw, x + 26, top, words, fill=FAINT)
        x += 26 + round(_font(TEXT_SIZE).getlength(words)) + 28


def _legend() -> Iterator[tuple[tuple[int, int, int], str]]:
    yield BASELINE_COLOURS[0], "diffusers, denoising"
    yield BASELINE_COLOURS[1], "the rest"
    yield TIER_COLOURS[0], "depthflux, denoising"
    yield TIER_COLOURS[1], "the rest"
    yield INK, "whisker: quickest to slowest call"


def _text(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    words: str,
    *,
    size: int = TEXT_SIZE,
    fill: tuple[int, int, int] = INK,
) -> None:
    draw.text((x, y), words, font=_font(size), fill=fill)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _fitted(words: str) -> str:
    """Words that end before the picture's edge."""
    room = WIDTH - 2 * MARGIN - NAME_WIDTH
    while _font(TEXT_SIZE).getlength(words) > room:
        words = words[:-2].rstrip("…") + "…"
    return words
