"""The demo's sheet: source image, depth map and pictures side by side, each with a caption.

Knows nothing of how the pictures were made.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN = 16
CAPTION_SIZE = 18
LINE_HEIGHT = 24
BACKGROUND = (255, 255, 255)
INK = (40, 42, 46)


def compose_sheet(panels: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Lay pictures out in a row, their captions below.

    Args:
        panels: pictures of any mode and size with their captions, of one line or more; all are
            brought to the height of the last one.

    Returns:
        Mode "RGB".
    """
    height = panels[-1][0].height
    pictures = [_of_height(picture, height) for picture, _ in panels]
    width = sum(picture.width for picture in pictures) + MARGIN * (len(pictures) + 1)
    lines = max(caption.count("\n") + 1 for _, caption in panels)
    below = 2 * MARGIN + lines * LINE_HEIGHT
    sheet = Image.new("RGB", (width, MARGIN + height + below), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION_SIZE)
    left = MARGIN
    for picture, (_, caption) in zip(pictures, panels, strict=True):
        sheet.paste(picture, (left, MARGIN))
        top = height + 1.5 * MARGIN
        for number, line in enumerate(caption.splitlines()):
            text = _fitted(line, picture.width, font)
            draw.text((left, top + number * LINE_HEIGHT), text, font=font, fill=INK)
        left += picture.width + MARGIN
    return sheet


def _of_height(picture: Image.Image, height: int) -> Image.Image:
    width = max(1, round(picture.width * height / picture.height))
    rgb = picture.convert("RGB")
    return rgb if rgb.height == height else rgb.resize((width, height), Image.Resampling.LANCZOS)


def _fitted(caption: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The caption, cut with an ellipsis where it is wider than its picture."""
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(caption + "…") > width:
        caption = caption[:-1]
    return caption.rstrip() + "…"
