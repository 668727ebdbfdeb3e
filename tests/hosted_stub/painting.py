"""Pictures: the control image's brightness, tinted by the prompt, with noise from the seed.

Knows nothing of the service. The same arguments give the same bytes.
"""

import hashlib
import io
import random

from PIL import Image, ImageOps, UnidentifiedImageError

_PILLOW_FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
# At most this much of a picture is the control image; the rest is noise, so that a measure of depth
# correlates without being perfect.
_MOST_STRUCTURE = 0.85
# The noise is drawn at an eighth of the size and enlarged, so that JPEG does not smooth it away.
_NOISE_CELL = 8


def open_control_image(data: bytes | None) -> Image.Image | None:
    """The brightness of an image file ("L"), or None where it is none; of no file, a default."""
    if data is None:
        return ImageOps.invert(Image.radial_gradient("L"))
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("L")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return None


def is_image(data: bytes) -> bool:
    """Whether bytes are an image file that can be read whole."""
    return open_control_image(data) is not None


def _digest(text: str) -> bytes:
    # JSON may carry half of a surrogate pair, which plain UTF-8 refuses.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def paint(
    control: Image.Image, prompt: str, seed: int, index: int, scale: float, size: tuple[int, int]
) -> Image.Image:
    """One picture.

    Args:
        control: "L", any size.
        prompt: Decides the two colours that black and white become.
        seed: Decides the noise, with the index.
        index: The picture's place in its task, from 0.
        scale: ``control_scale``, 0..2; 0 leaves the noise alone, from 1 on structure is strongest.
        size: Width and height in pixels.

    Returns:
        uint8 RGB of that size.
    """
    digest = _digest(prompt)
    dark = tuple(value // 4 for value in digest[:3])
    light = tuple(255 - value // 4 for value in digest[3:6])
    width, height = size
    cells = (-(-width // _NOISE_CELL), -(-height // _NOISE_CELL))
    generator = random.Random(_digest(f"{seed} {index} {prompt}"))
    noise = Image.frombytes("L", cells, generator.randbytes(cells[0] * cells[1]))
    noise = noise.resize(size, Image.Resampling.BILINEAR)
    structure = control.resize(size, Image.Resampling.BILINEAR)
    mixed = Image.blend(noise, structure, _MOST_STRUCTURE * min(1.0, scale))
    return ImageOps.colorize(mixed, dark, light)


def encode(picture: Image.Image, extension: str) -> bytes:
    """A picture as a file of the kind that the extension names."""
    buffer = io.BytesIO()
    picture.save(buffer, _PILLOW_FORMATS[extension], quality=95)
    return buffer.getvalue()
