"""Depth Anything, V1 and V2, through transformers, from a folder on this machine.

The image processor is the one built on PIL, imported by its own module path: transformers' Auto
classes choose the torchvision one wherever torchvision is installed, and that resizes differently,
so the same picture would give another depth on another machine.

Importing this module imports neither torch nor transformers. It never downloads anything. It does
not know what is done with the depth, and it cannot know whether a folder's weights are the ones
that its configuration resembles; the record's sha256 tells that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from depthflux.configurations import refuse_code
from depthflux.depth.estimator import EstimatorCard, Gives
from depthflux.errors import WeightsCorruptError, WeightsMissingError, first_line, show

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
#: What every Depth Anything sees with.
BACKBONE = "dinov2"

#: What an operator can do about a folder that is not usable.
FIX = "Copy it again as weights/README.md says, or name another folder with depth_estimator."

#: Nearer than this a metric model's depth is taken as this, in metres: its reciprocal would
#: otherwise be unbounded. NYU Depth v2 and KITTI evaluations count no depth below 1e-3 either.
LEAST_DEPTH_M = 1e-3

#: Pictures longer than this (long side over short) leave the processor's own rule, which would take
#: them either to a side of zero patches (a failure) or to tens of thousands of tokens.
MAX_ASPECT = 4.0


#: How much of another library's message an error repeats.
MAX_QUOTED_CHARACTERS = 200

#: How many tensors at fault an error names; weights of another size have hundreds.
SHOWN_PROBLEMS = 5


class Fingerprint(NamedTuple):
    """What tells the published checkpoints apart in their config.json."""

    hidden_size: int
    out_indices: tuple[int, ...]
    kind: str


def _published(name: str, source: str, licence: str) -> EstimatorCard:
    return EstimatorCard(name, source, licence, "disparity", 518)


#: The default, and the only V2 size whose licence allows commercial use.
DEPTH_ANYTHING_V2_SMALL = _published(
    "depth-anything-v2-small", "depth-anything/Depth-Anything-V2-Small-hf", "Apache-2.0"
)

#: The packaged estimator of the demo model. It was trained on the demo's own drawn scenes and is of
#: no use on photographs.
DEMO = EstimatorCard(
    "depthflux-demo-depth", "packaged with depthflux", "Apache-2.0", "disparity", 252
)

#: The packaged and the published checkpoints. depth-anything-large (V1) is the one FLUX.1 Depth was
#: trained with (DepthImageEncoder in Black Forest Labs' flux repository), so `bfl_raw` means it.
#: Source: the checkpoints' model cards; out_indices from transformers' conversion script.
KNOWN: Mapping[Fingerprint, EstimatorCard] = {
    Fingerprint(128, (3, 4, 5, 6), "relative"): DEMO,
    Fingerprint(384, (3, 6, 9, 12), "relative"): DEPTH_ANYTHING_V2_SMALL,
    Fingerprint(768, (3, 6, 9, 12), "relative"): _published(
        "depth-anything-v2-base", "depth-anything/Depth-Anything-V2-Base-hf", "CC-BY-NC-4.0"
    ),
    Fingerprint(1024, (5, 12, 18, 24), "relative"): _published(
        "depth-anything-v2-large", "depth-anything/Depth-Anything-V2-Large-hf", "CC-BY-NC-4.0"
    ),
    Fingerprint(1024, (21, 22, 23, 24), "relative"): _published(
        "depth-anything-large", "LiheYoung/depth-anything-large-hf", "Apache-2.0"
    ),
}


class DepthAnything:
    """A loaded Depth Anything model, a `DepthEstimator`.

    Attributes:
        card: what is declared about it.
        folder: where it was loaded from.
    """

    def __init__(self, card: EstimatorCard, folder: Path, model: Any, processor: Any) -> None:
        self.card = card
        self.folder = folder
        self._model = model
        self._processor = processor

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        card: EstimatorCard | None = None,
    ) -> Self:
        """Load from a folder that holds config.json, preprocessor_config.json, model.safetensors.

        Args:
            folder: local; nothing is fetched.
            device: where the model computes.
            dtype: what it computes in, float32 unless said otherwise; the result is float32 always.
            card: what is declared about it; without it, `describe` finds that out.

        Raises:
            WeightsMissingError: files are missing; all of them are named.
            WeightsCorruptError: a file is truncated, unreadable, or its tensors do not fit.
        """
        # Judged whatever is declared: a folder may come from anyone.
        described = describe(folder)
        model = _load_model(folder, dtype)
        return cls(card or described, folder, model.to(device).eval(), _load_processor(folder))

    def estimate(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The depth of a picture, at the picture's own size.

        The prediction is resized as transformers' depth-estimation pipeline does it (bicubic); a
        model that gives depth is turned into inverse depth before that, so that the resizing
        cannot overshoot through zero at an edge.

        Args:
            rgb: uint8 [H, W, 3], 0..255, sRGB.

        Returns:
            float32 [H, W], relative inverse depth, larger = nearer, unbounded.
        """
        import torch

        height, width = rgb.shape[:2]
        inputs = self._processor(
            images=rgb,
            input_data_format="channels_last",
            return_tensors="pt",
            **self._elongated(height, width),
        )
        pixels = inputs["pixel_values"].to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            outputs = self._model(pixel_values=pixels)
            prediction = outputs.predicted_depth.float()
            if self.card.gives == "depth":
                prediction = prediction.clamp(min=LEAST_DEPTH_M).reciprocal()
            outputs.predicted_depth = prediction
            (resized,) = self._processor.post_process_depth_estimation(
                outputs, target_sizes=[(height, width)]
            )
        depth: NDArray[np.float32] = resized["predicted_depth"].cpu().numpy()
        # The pipeline's squeeze drops a side of one pixel.
        return depth.reshape(height, width)

    def _elongated(self, height: int, width: int) -> dict[str, Any]:
        """What to tell the processor about a picture of extreme shape; nothing for a usual one."""
        aspect = max(height, width) / min(height, width)
        if aspect <= MAX_ASPECT:
            return {}
        long = MAX_ASPECT * self.card.input_size
        short = max(self._processor.ensure_multiple_of, long / aspect)
        size = (long, short) if height > width else (short, long)
        return {
            "size": {"height": round(size[0]), "width": round(size[1])},
            "keep_aspect_ratio": False,
        }


def describe(folder: Path) -> EstimatorCard:
    """What is known about the estimator in a folder, from its two JSON files; reads no weights.

    A published checkpoint is recognised by its configuration. Anything else is named after its
    folder, its licence is "unknown", and it gives depth where it calls itself metric.

    Raises:
        WeightsMissingError: files are missing; all of them are named.
        WeightsCorruptError: a JSON file is unreadable, names code, or is of no Depth Anything
            model.
    """
    _refuse_missing(folder)
    refuse_code(folder, fix=FIX)
    config, processor = _read_json(folder / CONFIG_FILE), _read_json(folder / PROCESSOR_FILE)
    if config.get("model_type") != "depth_anything":
        raise WeightsCorruptError(
            f"{folder / CONFIG_FILE} describes a model of type {show(config.get('model_type'))}; "
            "only depth_anything can be used.",
            fix=FIX,
        )
    backbone = config.get("backbone_config")
    if not isinstance(backbone, dict):
        raise WeightsCorruptError(f"{folder / CONFIG_FILE} describes no backbone.", fix=FIX)
    _refuse_other_libraries(folder / CONFIG_FILE, config, backbone)
    input_size = _input_size(folder / PROCESSOR_FILE, processor.get("size"))
    kind = config.get("depth_estimation_type", "relative")
    fingerprint = Fingerprint(
        backbone.get("hidden_size", 0), tuple(backbone.get("out_indices") or ()), kind
    )
    known = KNOWN.get(fingerprint)
    if known is not None:
        return replace(known, input_size=input_size)
    gives: Gives = "depth" if kind == "metric" else "disparity"
    return EstimatorCard(folder.name, str(folder), "unknown", gives, input_size)


def _refuse_other_libraries(
    file: Path, config: Mapping[str, Any], backbone: Mapping[str, Any]
) -> None:
    """See that transformers builds all of it alone, with no other library and no Hub."""
    if backbone.get("model_type", BACKBONE) != BACKBONE:
        raise WeightsCorruptError(
            f"{file} describes a backbone of type {show(backbone.get('model_type'))}; only "
            f"{BACKBONE} can be used.",
            fix=FIX,
        )
    if config.get("quantization_config"):
        raise WeightsCorruptError(
            f"{file} describes quantized weights; only unrounded ones can be used.", fix=FIX
        )


def _input_size(file: Path, size: object) -> int:
    sides = list(size.values()) if isinstance(size, dict) else [size]
    whole = [side for side in sides if isinstance(side, int) and side > 0]
    if not whole or len(whole) < len(sides):
        raise WeightsCorruptError(
            f"{file} has size={show(size)}; expected a height and a width in pixels.", fix=FIX
        )
    return min(whole)


def _refuse_missing(folder: Path) -> None:
    missing = [
        name
        for name in (CONFIG_FILE, PROCESSOR_FILE, WEIGHTS_FILE)
        if not (folder / name).is_file()
    ]
    if missing:
        raise WeightsMissingError(
            f"the depth estimator's folder {folder} lacks {', '.join(missing)}.", fix=FIX
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsCorruptError(f"{file} is no readable JSON: {error}.", fix=FIX) from error
    if not isinstance(content, dict):
        raise WeightsCorruptError(f"{file} holds no JSON object.", fix=FIX)
    return content


def _load_model(folder: Path, dtype: torch.dtype | None) -> Any:
    """The model with every weight from the file, or an error that names the file."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers.models.depth_anything.modeling_depth_anything import (
        DepthAnythingForDepthEstimation,
    )

    _refuse_missing(folder)
    file = folder / WEIGHTS_FILE
    try:
        with quiet_transformers():
            # Mismatches are asked for as a list: left to itself, transformers prints a report,
            # draws random weights for what is missing and goes on.
            model, report = DepthAnythingForDepthEstimation.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=dtype or torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise WeightsCorruptError(
            f"{file} is truncated or no safetensors file: {first_line(error)}.", fix=FIX
        ) from error
    except (StrictDataclassError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsCorruptError(
            f"{folder / CONFIG_FILE} describes no model that can be built: {first_line(error)}.",
            fix=FIX,
        ) from error
    _refuse_mismatch(file, report)
    return model


def _refuse_mismatch(file: Path, report: Mapping[str, Any]) -> None:
    """Stop unless the file's tensors are exactly the model's."""
    problems = [
        *(f"{key} is missing" for key in sorted(report["missing_keys"])),
        *(f"{key} is not part of it" for key in sorted(report["unexpected_keys"])),
        *(
            f"{key} has shape {list(got)} instead of {list(wanted)}"
            for key, got, wanted in sorted(report["mismatched_keys"])
        ),
    ]
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        shown = "; ".join(problems[:SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise WeightsCorruptError(
            f"{file} does not fit the model that {CONFIG_FILE} describes: {shown}.", fix=FIX
        )


def _load_processor(folder: Path) -> Any:
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    try:
        with quiet_transformers():
            return DPTImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsCorruptError(
            f"{folder / PROCESSOR_FILE} does not describe Depth Anything's preprocessing: "
            f"{first_line(error)}.",
            fix=FIX,
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' reports and progress bars off stderr; our errors say what went wrong."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
