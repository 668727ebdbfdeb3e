"""Files → modules: the seven components of a FLUX pipeline, on their device, ready to run.

Modules are first built empty on the meta device, so that weights exist once only, and then filled
and placed through accelerate. What a file lacks is an error here; the libraries underneath would
go on with random weights.

Knows nothing of requests; the control LoRA is depthflux.model.control_lora's.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from depthflux.contract import DEMO_MODEL, HOSTED_MODEL
from depthflux.errors import WeightsCorruptError, first_line
from depthflux.model.control_lora import ControlLora, attach_control_lora
from depthflux.model.headers import read_header
from depthflux.model.placement import Placement
from depthflux.model.tensors import TensorFiles
from depthflux.model.weights import ModelFiles, read_json
from depthflux.settings import Compat, Master

#: FLUX.1-dev's own numbers of double and single blocks and of attention heads; a model that has
#: others must not answer under the hosted model's name.
FLUX_SHAPE = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24}
#: What the schedule's shift is computed from.
SCHEDULE = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
#: Words that any tokenizer with a vocabulary knows parts of.
TOKENIZER_PROBE = "a red house on the hill"
#: Longest prompt of FLUX, in T5 tokens; a smaller model's tokenizer may state less.
MAX_PROMPT_TOKENS = 512


@dataclass(frozen=True)
class Model:
    """A FLUX pipeline's modules with the control LoRA attached.

    Attributes:
        id: what `data.model` says.
        files: where everything was loaded from.
        placement: where it runs.
        control_lora: changes the transformer's weights to a control scale.
    """

    id: str
    files: ModelFiles
    placement: Placement
    tokenizer: Any
    tokenizer_2: Any
    text_encoder: Any
    text_encoder_2: Any
    transformer: Any
    vae: Any
    scheduler: Any
    control_lora: ControlLora

    @property
    def vae_scale_factor(self) -> int:
        """Pixels a latent cell is wide: 8 for FLUX."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def grid(self) -> int:
        """Pixels a packed token is wide, of which a picture's sides are multiples: 16 for FLUX."""
        return 2 * self.vae_scale_factor

    @property
    def max_prompt_tokens(self) -> int:
        """T5 tokens a prompt may have: 512 for FLUX."""
        return int(min(MAX_PROMPT_TOKENS, self.tokenizer_2.model_max_length))


def load_model(
    files: ModelFiles, placement: Placement, *, compat: Compat = "none", master: Master = "file"
) -> Model:
    """Load every component and attach the control LoRA; its scale is still to be set.

    Args:
        files: where everything lies.
        placement: where it shall run.
        compat: whose law the control LoRA follows.
        master: where the unfused weights are kept.

    Raises:
        WeightsMissingError: files are not there.
        WeightsCorruptError: files are truncated, or their tensors do not fit the model.
        LoraMismatchError: the control LoRA does not fit the transformer.
    """
    files.check()
    folder = files.folder
    with _quiet_libraries():
        components = {
            "scheduler": _load_scheduler(folder / "scheduler"),
            "tokenizer": _load_tokenizer(CLIPTokenizer, folder / "tokenizer"),
            "tokenizer_2": _load_tokenizer(T5Tokenizer, folder / "tokenizer_2"),
            "text_encoder": _load_text_encoder(CLIPTextModel, folder / "text_encoder", placement),
            "text_encoder_2": _load_text_encoder(
                T5EncoderModel, folder / "text_encoder_2", placement
            ),
            "transformer": _load_module(FluxTransformer2DModel, files, "transformer", placement),
            "vae": _load_module(AutoencoderKL, files, "vae", placement),
        }
        _check_scales(folder, components["vae"].config)
        control_lora = attach_control_lora(
            components["transformer"],
            files.control_lora,
            TensorFiles(files.component_files("transformer")),
            compat=compat,
            keep=master,
        )
    return Model(
        id=_model_id(files, components["transformer"].config),
        files=files,
        placement=placement,
        control_lora=control_lora,
        **components,
    )


def _load_scheduler(folder: Path) -> Any:
    """The scheduler; one without dynamic shifting would follow another schedule than FLUX's."""
    path = folder / "scheduler_config.json"
    config = read_json(path)
    missing = [name for name in SCHEDULE if not _is_number(config.get(name))]
    if missing or config.get("use_dynamic_shifting") is not True:
        lacks = ", ".join(missing) or "use_dynamic_shifting"
        raise WeightsCorruptError(f"{path} is not FLUX's: it lacks {lacks}.")
    try:
        return FlowMatchEulerDiscreteScheduler.from_config(config)
    except (ValueError, TypeError) as error:
        raise WeightsCorruptError(f"{path} does not fit: {first_line(error)}.") from error


def _load_tokenizer(kind: type[Any], folder: Path) -> Any:
    """A tokenizer that knows words: a probe must not come out as unknown tokens only."""
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
        ids = tokenizer([TOKENIZER_PROBE], add_special_tokens=False).input_ids[0]
    # tokenizers raises bare Exception for a vocabulary it cannot read.
    except Exception as error:
        raise WeightsCorruptError(f"{folder} is no tokenizer: {first_line(error)}.") from error
    if not set(ids) - {tokenizer.unk_token_id}:
        raise WeightsCorruptError(f"{folder} is no tokenizer: it knows no words.")
    return tokenizer


def _check_scales(folder: Path, config: Any) -> None:
    names = ("scaling_factor", "shift_factor")
    bad = [name for name in names if not _is_number(getattr(config, name))]
    if bad:
        raise WeightsCorruptError(f"{folder}/vae/config.json has no number for {', '.join(bad)}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _load_module(
    kind: type[Any], files: ModelFiles, component: str, placement: Placement
) -> torch.nn.Module:
    """A diffusers module: built empty, checked against the files' headers, filled in place."""
    folder = files.folder / component
    try:
        with accelerate.init_empty_weights():
            module = kind.from_config(kind.load_config(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = first_line(error)
        raise WeightsCorruptError(f"{folder}/config.json does not fit: {reason}.") from error
    shards = files.component_files(component)
    problems = _tensor_problems(module, shards)
    if problems:
        raise WeightsCorruptError(f"{folder} does not fit its config.json: {'; '.join(problems)}.")
    for shard in shards:
        accelerate.load_checkpoint_in_model(
            module,
            str(shard),
            device_map={"": str(placement.device)},
            dtype=placement.dtype,
        )
    return module.eval().requires_grad_(False)


def _tensor_problems(module: torch.nn.Module, shards: list[Path]) -> list[str]:
    """All tensors that are missing, left over or of another shape, in words."""
    expected = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {n: list(t.shape) for shard in shards for n, t in read_header(shard).items()}
    missing = sorted(expected.keys() - found.keys())
    left_over = sorted(found.keys() - expected.keys())
    shapes = [
        f"{name} is {found[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    problems = [f"missing {', '.join(missing)}"] if missing else []
    return problems + ([f"left over {', '.join(left_over)}"] if left_over else []) + shapes


def _load_text_encoder(kind: type[Any], folder: Path, placement: Placement) -> torch.nn.Module:
    """A transformers module; it loads itself, since it renames old checkpoints' keys."""
    try:
        module, report = kind.from_pretrained(
            folder,
            dtype=placement.dtype,
            device_map={"": str(placement.device)},
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (SafetensorError, RuntimeError, ValueError, TypeError, OSError) as error:
        raise WeightsCorruptError(f"{folder} cannot be loaded: {first_line(error)}.") from error
    problems = sorted(map(str, report["missing_keys"])) + sorted(
        map(str, report["mismatched_keys"])
    )
    if problems:
        raise WeightsCorruptError(
            f"{folder} does not fit its config.json: missing or misshapen {', '.join(problems)}."
        )
    return module.eval().requires_grad_(False)


def _model_id(files: ModelFiles, config: Any) -> str:
    """The packaged miniature and a model of FLUX's own shape have their names, no other has."""
    if files.is_demo:
        return DEMO_MODEL
    if all(getattr(config, name) == number for name, number in FLUX_SHAPE.items()):
        return HOSTED_MODEL
    return f"local/{files.folder.name}"


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silence the libraries' advice on loading; what matters is checked and said by us."""
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers", "accelerate")]
    levels = [logger.level for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
