"""Files → modules: the seven components of a FLUX pipeline, on their device, ready to run.

Everything is judged before anything is read: what is wrong with any component stands in one error.

Knows nothing of requests; modules are depthflux.model.assembly's, and the control LoRA is
depthflux.model.control_lora's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import CLIPTokenizer, T5Tokenizer

from depthflux.configurations import refuse_code
from depthflux.contract import DEMO_MODEL, HOSTED_MODEL
from depthflux.errors import WeightsCorruptError, first_line
from depthflux.model.assembly import Fitted, fill, fit, is_number
from depthflux.model.components import MODULES, Component
from depthflux.model.control_lora import ControlLora, attach_control_lora
from depthflux.model.offload import (
    place_modulations,
    place_text_encoders,
    text_device,
    transformer_device,
)
from depthflux.model.placement import Placement
from depthflux.model.prepared import Prepared
from depthflux.model.quantization import Kind, large_linears, quantize_linears, read_quantized
from depthflux.model.tensors import TensorFiles
from depthflux.model.weights import ModelFiles
from depthflux.settings import Compat, Home, Master, TextHome

logger = logging.getLogger("depthflux")

#: FLUX.1-dev's own numbers of double and single blocks and of attention heads; a model that has
#: others must not answer under the hosted model's name.
FLUX_SHAPE = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24}
#: What the schedule's shift is computed from.
SCHEDULE = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
#: Words that any tokenizer with a vocabulary knows parts of.
TOKENIZER_PROBE = "a red house on the hill"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
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
    files: ModelFiles,
    placement: Placement,
    *,
    compat: Compat = "none",
    master: Master = "file",
    modulation: Home = "device",
    text_encoders: TextHome = "device",
    components: Mapping[str, Any] | None = None,
    quantized: Kind = "none",
    prepared: Prepared | None = None,
) -> Model:
    """Load every component and attach the control LoRA; its scale is still to be set.

    Args:
        files: where everything lies.
        placement: where it shall run.
        compat: whose law the control LoRA follows.
        master: where the unfused weights are kept.
        modulation: where the modulation linears live.
        text_encoders: where the text encoders live.
        components: as `open_model` gives them, where they are open already.
        quantized: what the blocks' large linears are rounded to.
        prepared: the fused transformer, where it was saved before.

    Raises:
        WeightsMissingError: files are not there.
        WeightsCorruptError: files are truncated, or their tensors do not fit the model.
        LoraMismatchError: the control LoRA does not fit the transformer.
    """
    _say_what_was_passed_over(files)
    components = dict(components or open_model(files))
    components["transformer"], control_lora = load_transformer(
        components["transformer"],
        files.control_lora,
        placement,
        compat=compat,
        master=master,
        modulation=modulation,
        quantized=quantized,
        prepared=prepared,
    )
    components["vae"] = fill(components["vae"], placement)
    home = dataclasses.replace(placement, device=text_device(text_encoders, placement.device))
    for name in TEXT_ENCODERS:
        components[name] = fill(components[name], home)
        place_text_encoders([components[name]], text_encoders, placement.device)
    return Model(
        id=_model_id(files, components["transformer"].config),
        files=files,
        placement=placement,
        control_lora=control_lora,
        **components,
    )


def load_transformer(
    fitted: Fitted,
    control_lora: Path,
    placement: Placement,
    *,
    compat: Compat = "none",
    master: Master = "file",
    modulation: Home = "device",
    quantized: Kind = "none",
    prepared: Prepared | None = None,
) -> tuple[Any, ControlLora]:
    """Fill the transformer and attach the control LoRA.

    Args:
        fitted: the transformer with its unfused files.
        control_lora: the LoRA's file.
        placement: where it shall run.
        compat: whose law the control LoRA follows.
        master: where the unfused weights are kept.
        modulation: where the modulation linears live.
        quantized: what the blocks' large linears are rounded to; these are of zeros until the
            control scale is set for the first time.
        prepared: the fused transformer to read instead; its control scale is then set already.

    Raises:
        WeightsCorruptError: a file cannot be read.
        LoraMismatchError: the control LoRA does not fit the transformer.
        DeviceError: what shall be quantized has sides that cannot be.
    """

    def device_of(name: str) -> torch.device:
        return transformer_device(name, modulation, placement.device)

    transformer = fitted.module
    # Before anything is filled: unquantized, these weights never lie on the device at once.
    quantize_linears(transformer, large_linears(transformer), quantized, placement)

    if prepared is None:
        fill(fitted, placement, device_of)
    with _quiet_libraries():
        attached = attach_control_lora(
            transformer,
            control_lora,
            fitted.tensors,
            compat=compat,
            keep=master,
            device=placement.device,
        )
    if prepared is not None:
        # The transformer is grown by now, as the prepared one is.
        saved = TensorFiles(prepared.files)
        fill(dataclasses.replace(fitted, tensors=saved), placement, device_of)
        read_quantized(transformer, saved)
        attached.take_as_fused(prepared.control_scale)
    place_modulations(transformer, modulation, placement.device)
    return transformer, attached


def open_model(files: ModelFiles) -> dict[str, Any]:
    """Open every component and compare what it holds with what it should; reads no weights.

    Returns:
        By name: modules that are still to be filled (`Fitted`), and the scheduler and the
        tokenizers, which are ready.

    Raises:
        WeightsCorruptError: something is damaged or does not fit; everything is named.
    """
    problems = list(files.accessory_problems())
    opened = {}
    for name, component in files.components.items():
        try:
            opened[name] = open_component(component)
        except WeightsCorruptError as error:
            problems.append(str(error))
    if problems:
        raise WeightsCorruptError(
            " ".join(problems),
            fix="Get these files again as they were published, and compare their sha256.",
        )
    return opened


def open_component(component: Component) -> Any:
    """Open one component: a `Fitted` for a module, the finished object for the others.

    Raises:
        WeightsCorruptError: it is damaged, does not fit or names code; everything is named.
    """
    if component.path is not None and not component.is_single:
        refuse_code(component.path, fix="Delete those lines or files.")
    with _quiet_libraries():
        return OPENED_BY[component.kind.name](component)


def load_scheduler(component: Component) -> Any:
    """The scheduler; one without dynamic shifting would follow another schedule than FLUX's.

    Raises:
        WeightsCorruptError: its configuration is unreadable or not FLUX's.
    """
    path = component.place / "scheduler_config.json"
    config = component.read_config(path.name)
    missing = [name for name in SCHEDULE if not is_number(config.get(name))]
    if missing or config.get("use_dynamic_shifting") is not True:
        lacks = ", ".join(missing) or "use_dynamic_shifting"
        raise WeightsCorruptError(f"{path} is not FLUX's: it lacks {lacks}.")
    try:
        return FlowMatchEulerDiscreteScheduler.from_config(config)
    except (ValueError, TypeError) as error:
        raise WeightsCorruptError(f"{path} does not fit: {first_line(error)}.") from error


def load_tokenizer(component: Component) -> Any:
    """A tokenizer that knows words: a probe must not come out as unknown tokens only.

    Raises:
        WeightsCorruptError: its files are unreadable or hold no vocabulary.
    """
    folder, kind = component.place, TOKENIZERS[component.kind.name]
    # A tokenizer's own repository may state another length than FLUX reads.
    options = dict(component.config or {})
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True, **options)
        ids = tokenizer([TOKENIZER_PROBE], add_special_tokens=False).input_ids[0]
    # tokenizers raises bare Exception for a vocabulary it cannot read.
    except Exception as error:
        raise WeightsCorruptError(f"{folder} is no tokenizer: {first_line(error)}.") from error
    if not set(ids) - {tokenizer.unk_token_id}:
        raise WeightsCorruptError(f"{folder} is no tokenizer: it knows no words.")
    return tokenizer


TOKENIZERS: Mapping[str, Any] = {"tokenizer": CLIPTokenizer, "tokenizer_2": T5Tokenizer}
OPENED_BY: Mapping[str, Callable[[Component], Any]] = {
    **dict.fromkeys(MODULES, fit),
    "scheduler": load_scheduler,
    "tokenizer": load_tokenizer,
    "tokenizer_2": load_tokenizer,
}


def _say_what_was_passed_over(files: ModelFiles) -> None:
    for component in files.components.values():
        for note in component.passed_over:
            logger.warning("%s is used; passed over: %s.", component.place, note)


def _model_id(files: ModelFiles, config: Any) -> str:
    """The packaged miniature and a model of FLUX's own shape have their names, no other has."""
    if files.is_demo:
        return DEMO_MODEL
    if all(getattr(config, name) == number for name, number in FLUX_SHAPE.items()):
        return HOSTED_MODEL
    return f"local/{files.name}"


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
