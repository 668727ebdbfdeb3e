"""Prompt agreement: how well a picture fits its prompt, by CLIP (the CLIP score).

The formula is torchmetrics', the model one that lies in a folder on this machine. Nothing is
downloaded, and nothing but safetensors and their descriptions is read. The image processor is the
one built on PIL, so that the figure does not depend on torchvision being installed.

Knows nothing of sides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from depthflux.bench.quality.figures import Found
from depthflux.configurations import refuse_code
from depthflux.depth.depth_anything import quiet_transformers
from depthflux.errors import (
    NonFiniteError,
    WeightsCorruptError,
    WeightsMissingError,
    first_line,
    show,
)

if TYPE_CHECKING:
    import torch

#: Folders in weights_dir that are looked for, the first that is there is taken: the two that
#: published CLIP scores mostly come from, the larger one first.
FOLDERS = ("clip-vit-large-patch14", "clip-vit-base-patch32")

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PROCESSOR_FILE = "preprocessor_config.json"
#: Either the first, or both of the others.
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")

FIX = (
    f"Copy a CLIP model as transformers saves it ({CONFIG_FILE}, {WEIGHTS_FILE}, {PROCESSOR_FILE}, "
    "tokenizer.json), or name another folder with --clip."
)

#: How many tensors at fault an error names.
SHOWN_PROBLEMS = 5


class PromptAgreement:
    """Judges with one CLIP model, the same for all sides.

    Attributes:
        name: of the model: its folder's.
        longest_prompt: tokens that CLIP reads, the two marks at the ends among them.
    """

    def __init__(self, name: str, model: Any, image_processor: Any, tokenizer: Any) -> None:
        """Judge with a loaded model."""
        self.name = name
        self.longest_prompt: int = model.config.text_config.max_position_embeddings
        self._features = _Features(model)
        self._inputs = _Inputs(image_processor, tokenizer, self.longest_prompt)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Load from a folder, in float32.

        Args:
            folder: as `find_clip` gives it.
            device: where it computes.

        Raises:
            WeightsMissingError: files are missing; all of them are named.
            WeightsCorruptError: a file is truncated, unreadable, names code, or its tensors do not
                fit.
        """
        if missing := _missing_files(folder):
            raise WeightsMissingError(
                f"the folder {folder} of the CLIP model lacks {', '.join(missing)}.", fix=FIX
            )
        refuse_code(folder, fix=FIX)
        model = _load_model(folder).to(device).eval()
        return cls(folder.name, model, *_load_processors(folder))

    @property
    def how(self) -> str:
        """How prompt agreement is measured, one sentence."""
        return (
            f"CLIP score by {self.name} (Hessel et al. 2021 as torchmetrics scales it: 100 times "
            "the cosine between the picture's and the prompt's embedding, at least 0); of a prompt "
            f"the first {self.longest_prompt} tokens are read, and of a picture the central square."
        )

    def score(self, rgb: NDArray[np.uint8], prompt: str) -> float:
        """The CLIP score of a picture and its prompt, from 0 to 100.

        A longer prompt than CLIP reads is cut, alike for every picture; see `is_cut`.

        Args:
            rgb: uint8 [H, W, 3], 0..255, sRGB.
            prompt: as it was sent.

        Raises:
            NonFiniteError: the model produced NaN or infinity.
        """
        import torch
        from torchmetrics.functional.multimodal import clip_score

        pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)
        with torch.inference_mode():
            score = clip_score(
                pixels.to(self._features.device), prompt, lambda: (self._features, self._inputs)
            )
        value = float(score)
        if not np.isfinite(value):
            raise NonFiniteError(
                f"the CLIP model {self.name} gave {value} for a picture; only a finite score can "
                "be compared; name another model with --clip."
            )
        return value

    def is_cut(self, prompt: str) -> bool:
        """Whether a prompt is longer than CLIP reads."""
        return self._inputs.tokens(prompt) > self.longest_prompt


def find_clip(named: Path | None, weights_dir: Path) -> Found:
    """The folder of the CLIP model that judges.

    Args:
        named: by the caller; taken as it is, and what is wrong with it is said when it is loaded.
        weights_dir: where it is looked for otherwise, as the setting of that name.
    """
    if named is not None:
        return Found(named.expanduser())
    looked = []
    for folder in (weights_dir.expanduser() / name for name in FOLDERS):
        missing = _missing_files(folder)
        if not missing:
            return Found(folder)
        lacks = f"lacks {', '.join(missing)}" if folder.is_dir() else "is not there"
        # A report may be shown to strangers, whom this machine's folders do not concern.
        looked.append(f"{Path(*folder.parts[-2:])} {lacks}")
    return Found(
        None,
        f"prompt agreement is not measured: there is no CLIP model ({'; '.join(looked)}), which "
        "--clip could name",
    )


class _Features:
    """CLIP as torchmetrics calls it: features come as tensors.

    transformers 5 gives an object that holds them.
    """

    def __init__(self, model: Any) -> None:
        self.config = model.config
        self._model = model

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self._model.device
        return device

    def to(self, device: torch.device) -> Self:
        """Itself; torchmetrics asks for the picture's device, where it is already."""
        del device
        return self

    def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 [B, features] of float32 [B, 3, side, side]."""
        features: torch.Tensor = self._model.get_image_features(pixel_values=pixels).pooler_output
        return features

    def get_text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """float32 [B, features] of int64 [B, tokens]."""
        features: torch.Tensor = self._model.get_text_features(
            input_ids=ids, attention_mask=mask
        ).pooler_output
        return features


class _Inputs:
    """CLIP's two processors as torchmetrics calls them.

    transformers' own class for both wants torchvision, and torchmetrics cuts a long prompt without
    the mark at its end, at which CLIP reads off the text's features.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, longest: int) -> None:
        self._image_processor = image_processor
        self._tokenizer = tokenizer
        self._longest = longest

    def __call__(
        self,
        *,
        text: Sequence[str] | None = None,
        images: Sequence[torch.Tensor] = (),
        return_tensors: str,
        padding: bool,
    ) -> Mapping[str, torch.Tensor]:
        """What the model takes, of prompts or of pictures (uint8 [3, H, W])."""
        inputs: Mapping[str, torch.Tensor]
        if text is not None:
            inputs = self._tokenizer(
                list(text),
                return_tensors=return_tensors,
                padding=padding,
                truncation=True,
                max_length=self._longest,
            )
        else:
            inputs = self._image_processor(
                images=[image.permute(1, 2, 0).numpy() for image in images],
                input_data_format="channels_last",
                return_tensors=return_tensors,
            )
        return inputs

    def tokens(self, prompt: str) -> int:
        """How many tokens a prompt has, uncut."""
        # Not verbose: the tokenizer would warn of what is asked for here.
        return len(self._tokenizer(prompt, verbose=False)["input_ids"])


def _missing_files(folder: Path) -> list[str]:
    """What a folder lacks of a CLIP model."""
    whole, *parts = TOKENIZER_FILES
    missing = [
        name
        for name in (CONFIG_FILE, WEIGHTS_FILE, PROCESSOR_FILE)
        if not (folder / name).is_file()
    ]
    if not (folder / whole).is_file() and not all((folder / name).is_file() for name in parts):
        missing.append(f"{whole} (or {' and '.join(parts)})")
    return missing


def _load_model(folder: Path) -> Any:
    """The model with every weight from the file, or an error that names the file."""
    import torch
    from safetensors import SafetensorError
    from transformers.models.clip.modeling_clip import CLIPModel

    config = _load_config(folder)
    try:
        with quiet_transformers():
            # Asked for as a list: left to itself, transformers draws random weights for what is
            # missing and goes on.
            model, report = CLIPModel.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise WeightsCorruptError(
            f"{folder / WEIGHTS_FILE} is truncated or no safetensors file: {first_line(error)}.",
            fix=FIX,
        ) from error
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsCorruptError(
            f"{folder / CONFIG_FILE} describes no model that can be built: {first_line(error)}.",
            fix=FIX,
        ) from error
    _refuse_mismatch(folder / WEIGHTS_FILE, report)
    return model


def _load_config(folder: Path) -> Any:
    from transformers.models.clip.configuration_clip import CLIPConfig

    file = folder / CONFIG_FILE
    try:
        described = json.loads(file.read_bytes())
        # Said before transformers, which would build a CLIP of another model's numbers.
        if not isinstance(described, dict) or described.get("model_type") != "clip":
            kind = described.get("model_type") if isinstance(described, dict) else described
            raise WeightsCorruptError(
                f"{file} describes a model of type {show(kind)}; only clip can be used.", fix=FIX
            )
        with quiet_transformers():
            return CLIPConfig.from_pretrained(folder, local_files_only=True)
    except WeightsCorruptError:
        raise
    # transformers' configurations check themselves with an exception of the Hub's library.
    except Exception as error:
        raise WeightsCorruptError(
            f"{file} describes no CLIP model: {first_line(error)}.", fix=FIX
        ) from error


def _refuse_mismatch(file: Path, report: Mapping[str, Any]) -> None:
    """Stop where a tensor of the model is not in the file as the model needs it."""
    problems = [f"{key} is missing" for key in sorted(report["missing_keys"])]
    problems += [
        f"{key} has shape {list(got)} instead of {list(wanted)}"
        for key, got, wanted in sorted(report["mismatched_keys"])
    ]
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        shown = "; ".join(problems[:SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise WeightsCorruptError(
            f"{file} does not fit the model that {CONFIG_FILE} describes: {shown}.", fix=FIX
        )


def _load_processors(folder: Path) -> tuple[Any, Any]:
    """Of pictures and of prompts."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    try:
        with quiet_transformers():
            return (
                CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True),
                CLIPTokenizer.from_pretrained(folder, local_files_only=True),
            )
    # tokenizers raises bare Exception for a vocabulary it cannot read.
    except Exception as error:
        raise WeightsCorruptError(
            f"{folder} does not describe how CLIP's pictures and prompts are prepared: "
            f"{first_line(error)}.",
            fix=FIX,
        ) from error
