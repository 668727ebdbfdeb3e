"""Traps in diffusers' handling of a control LoRA: each still there, and ours not caught in it.

A test named `upstream` shows what the installed diffusers does. Where one fails, diffusers has
changed: its message says what to do. docs/fidelity.md lists the traps with these tests' names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bfl_models import forward, inputs, load, relative
from bfl_reference import Size, linear_shapes, norm_names, random_base
from diffusers import FluxControlPipeline
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from depthflux.errors import LoraMismatchError
from depthflux.model.control_lora import ControlLora, attach_control_lora
from depthflux.model.lora_file import read_lora

SMALL = Size(heads=2, head_width=16, double=2, single=2, text_width=32, pooled_width=16, rank=4)
MENDED = (
    "diffusers has changed here: run scripts/fidelity, take the trap from its page and from this "
    "file if it is gone, and see whether compat=diffusers still follows diffusers"
)
NORM = "transformer_blocks.0.attn.norm_q.weight"
LINEAR = "transformer_blocks.0.attn.to_q.weight"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base model, and two control LoRAs for it in diffusers' key layout."""
    folder = tmp_path_factory.mktemp("traps")
    save_file(random_base(SMALL, torch.bfloat16), folder / "base.safetensors")
    transformer, _ = load(folder / "base.safetensors", SMALL)
    for seed, name in enumerate(("lora", "other")):
        save_file(diffusers_lora(transformer, seed), folder / f"{name}.safetensors")
    return folder


def diffusers_lora(transformer: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, linear in transformer.named_modules():
        if isinstance(linear, torch.nn.Linear):
            width = linear.in_features * (2 if name == "x_embedder" else 1)
            down = torch.randn(SMALL.rank, width, generator=draw) / width**0.5
            up = 0.3 * torch.randn(linear.out_features, SMALL.rank, generator=draw)
            tensors[f"transformer.{name}.lora_A.weight"] = down
            tensors[f"transformer.{name}.lora_B.weight"] = up
    for name, parameter in norms_of(transformer).items():
        brought = 1 + 0.1 * torch.randn(parameter.shape, generator=draw)
        tensors[f"transformer.{name}"] = brought
    return tensors


def pipeline_with(
    files: Path, dtype: torch.dtype = torch.float32, lora: str = "lora"
) -> FluxControlPipeline:
    """diffusers' pipeline of the transformer alone, with a control LoRA loaded."""
    others = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    transformer, _ = load(files / "base.safetensors", SMALL, dtype)
    pipeline = FluxControlPipeline(transformer=transformer, **dict.fromkeys(others))
    pipeline.load_lora_weights(load_file(files / f"{lora}.safetensors"))
    return pipeline


def ours_with(files: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, ControlLora]:
    transformer, master = load(files / "base.safetensors", SMALL, dtype)
    return transformer, attach_control_lora(transformer, files / "lora.safetensors", master)


def base_of(files: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load(files / "base.safetensors", SMALL, dtype)[0]


def norms_of(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The q/k norms' weights."""
    parameters = {n: p.data for n, p in transformer.named_parameters()}
    return {n: t for n, t in parameters.items() if ".norm_" in n and "linear" not in n}


def brought_norms(files: Path, lora: str = "lora") -> dict[str, torch.Tensor]:
    tensors = load_file(files / f"{lora}.safetensors")
    norms = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in norms.items() if "lora_" not in name}


def weights(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the tensors, of peft's layers only what they wrap."""
    state = {n.replace(".base_layer", ""): t.clone() for n, t in transformer.state_dict().items()}
    return {name: tensor for name, tensor in state.items() if "lora_" not in name}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def fused_by_us(files: Path, scale: float, dtype: torch.dtype = torch.float32) -> Any:
    transformer, control = ours_with(files, dtype)
    control.set_scale(scale)
    return transformer


# Unloading after fusing takes the norms back, and leaves the weights fused ------------------------


def test_upstream_unloading_after_fusing_leaves_fused_weights_with_the_base_models_norms(
    files: Path,
) -> None:
    pipeline = pipeline_with(files)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()

    fused = fused_by_us(files, 1.0)
    assert torch.allclose(pipeline.transformer.get_parameter(LINEAR), fused.get_parameter(LINEAR))
    assert equal(norms_of(pipeline.transformer), norms_of(base_of(files))), MENDED


def test_taking_the_loras_layers_out_leaves_its_norms(files: Path) -> None:
    transformer = fused_by_us(files, 1.0)

    assert not [module for module in transformer.modules() if isinstance(module, LoraLayer)]
    assert equal(norms_of(transformer), brought_norms(files))


# Resetting after fusing resets the input embedder alone -------------------------------------------


def test_upstream_resetting_after_fusing_resets_the_input_embedder_alone(files: Path) -> None:
    pipeline = pipeline_with(files)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights(reset_to_overwritten_params=True)

    now, base = weights(pipeline.transformer), weights(base_of(files))
    assert torch.equal(now["x_embedder.weight"], base["x_embedder.weight"])
    assert not torch.equal(now[LINEAR], base[LINEAR]), MENDED


def test_going_back_to_scale_zero_resets_every_tensor(files: Path) -> None:
    transformer, control = ours_with(files)
    control.set_scale(1.0)
    control.set_scale(0.0)

    now = weights(transformer)
    now["x_embedder.weight"] = now["x_embedder.weight"][:, : SMALL.channels]
    assert equal(now, weights(base_of(files)))


# Unfusing takes the norms back and leaves the adapter at work -------------------------------------


def test_upstream_unfusing_leaves_the_lora_at_work_without_its_norms(files: Path) -> None:
    pipeline = pipeline_with(files)
    given = inputs(SMALL, control=True)
    pipeline.fuse_lora()
    pipeline.unfuse_lora()

    base = fused_by_us(files, 0.0)
    assert equal(norms_of(pipeline.transformer), norms_of(base)), MENDED
    assert relative(forward(pipeline.transformer, given), forward(base, given)) > 0.01, MENDED

    pipeline.fuse_lora()
    assert equal(norms_of(pipeline.transformer), norms_of(base)), MENDED


def test_every_scale_sets_linears_and_norms_together(files: Path) -> None:
    transformer, control = ours_with(files)
    for scale in (1.0, 0.0, 1.0):
        control.set_scale(scale)

    assert equal(weights(transformer), weights(fused_by_us(files, 1.0)))
    assert equal(norms_of(transformer), brought_norms(files))


# A second control LoRA makes the first one's norms pass for the base model's ----------------------


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_upstream_a_second_control_lora_loses_the_base_models_norms(files: Path) -> None:
    pipeline = pipeline_with(files)
    pipeline.load_lora_weights(load_file(files / "other.safetensors"))
    pipeline.unload_lora_weights()

    assert equal(norms_of(pipeline.transformer), brought_norms(files)), MENDED


def test_a_control_lora_is_no_further_lora(files: Path) -> None:
    transformer, _ = ours_with(files)

    with pytest.raises(LoraMismatchError):
        read_lora(files / "other.safetensors", transformer)


# Unloading without a reset leaves the transformer grown -------------------------------------------


def test_upstream_unloading_without_a_reset_leaves_128_input_channels(files: Path) -> None:
    pipeline = pipeline_with(files)
    pipeline.unload_lora_weights()

    assert pipeline.transformer.config.in_channels == 2 * SMALL.channels, MENDED


def test_at_scale_zero_the_grown_transformer_is_the_base_model(files: Path) -> None:
    """Ours stays grown for good; the control's columns are zero then, and say nothing."""
    given = inputs(SMALL, control=True)
    plain = given | {"image": given["image"][..., : SMALL.channels]}

    assert torch.equal(forward(fused_by_us(files, 0.0), given), forward(base_of(files), plain))


# The scale is the linears' alone ------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_upstream_the_scale_leaves_the_norms_at_one(files: Path, scale: float) -> None:
    pipeline = pipeline_with(files)
    pipeline.fuse_lora(lora_scale=scale)

    assert equal(norms_of(pipeline.transformer), brought_norms(files)), MENDED


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_the_norms_follow_the_scale(files: Path, scale: float) -> None:
    base, brought = norms_of(base_of(files)), brought_norms(files)

    for name, norm in norms_of(fused_by_us(files, scale)).items():
        wanted = base[name] + scale * (brought[name] - base[name])
        assert torch.allclose(norm, wanted, atol=1e-6), name


# What was overwritten is kept under the short name of its linear ----------------------------------


def test_upstream_a_grown_linear_inside_a_block_is_kept_under_its_short_name(files: Path) -> None:
    transformer = base_of(files)
    name = "transformer.transformer_blocks.0.attn.to_q"
    wide = {
        f"{name}.lora_A.weight": torch.ones(2, 2 * SMALL.width),
        f"{name}.lora_B.weight": torch.ones(SMALL.width, 2),
    }
    FluxControlPipeline._maybe_expand_transformer_param_shape_or_error_(transformer, wide)

    assert set(transformer._overwritten_params) == {"to_q.weight", "to_q.bias"}, MENDED


def test_no_linear_but_the_input_embedder_grows(files: Path, tmp_path: Path) -> None:
    lora = load_file(files / "lora.safetensors")
    key = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
    lora[key] = torch.nn.functional.pad(lora[key], (0, SMALL.width))
    save_file(lora, tmp_path / "wide.safetensors")
    transformer, master = load(files / "base.safetensors", SMALL)

    with pytest.raises(LoraMismatchError, match=r"to_q\.lora_A\.weight"):
        attach_control_lora(transformer, tmp_path / "wide.safetensors", master)


# A fused adapter stays in the way, and its scale says nothing -------------------------------------


def test_upstream_a_fused_adapter_stays_and_its_scale_is_silently_without_effect(
    files: Path,
) -> None:
    pipeline = pipeline_with(files)
    pipeline.fuse_lora()
    given = inputs(SMALL, control=True)
    places = {"img_ids": torch.zeros(6, 3), "txt_ids": torch.zeros(4, 3)}
    with torch.no_grad():
        scaled = pipeline.transformer(
            hidden_states=given["image"],
            encoder_hidden_states=given["text"],
            pooled_projections=given["pooled"],
            timestep=given["timestep"],
            guidance=given["guidance"],
            joint_attention_kwargs={"scale": 0.0},
            return_dict=False,
            **places,
        )[0]

    layers = [m for m in pipeline.transformer.modules() if isinstance(m, LoraLayer)]
    assert len(layers) == sum(isinstance(m, torch.nn.Linear) for m in base_of(files).modules())
    assert torch.equal(scaled, forward(pipeline.transformer, given)), MENDED


def test_a_fused_transformer_has_the_base_models_modules_and_no_others(files: Path) -> None:
    fused, base = fused_by_us(files, 1.0), base_of(files)

    assert [(n, type(m)) for n, m in fused.named_modules()] == [
        (n, type(m)) for n, m in base.named_modules()
    ]
    assert fused.state_dict().keys() == base.state_dict().keys()


# The last AdaLN's delta is converted into another one ---------------------------------------------


def test_upstream_the_conversion_swaps_the_last_adalns_rank(tmp_path: Path) -> None:
    """B's rows are swapped, rightly; so are A's, whose order must be that of B's columns."""
    # diffusers counts 19 and 38 blocks and cuts linear1 at FLUX's width; other sizes are free.
    widths = {module: 21504 if "linear1" in module else 6 for module in linear_shapes(Size())}
    lora = {f"{module}.lora_A.weight": torch.ones(1, 4) for module in widths}
    lora |= {f"{module}.lora_B.weight": torch.ones(rows, 1) for module, rows in widths.items()}
    lora |= {name: torch.ones(1) for name in norm_names(Size())}
    last = "final_layer.adaLN_modulation.1"
    down, up = torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    lora |= {f"{last}.lora_A.weight": down, f"{last}.lora_B.weight": up}

    converted = FluxControlPipeline.lora_state_dict(lora)

    theirs = {f: converted[f"transformer.norm_out.linear.lora_{f}.weight"] for f in "AB"}
    assert torch.equal(theirs["B"], up.flip(0))
    assert torch.equal(theirs["A"], down.flip(0)), MENDED
    assert not torch.equal(theirs["B"] @ theirs["A"], (up @ down).flip(0)), MENDED


# Scales multiply, zero is for ever, and unfusing rounds -------------------------------------------


def delta_of(transformer: torch.nn.Module, files: Path) -> torch.Tensor:
    return weights(transformer)[LINEAR] - weights(base_of(files))[LINEAR]


def test_upstream_fusing_at_a_scale_twice_multiplies_the_scales(files: Path) -> None:
    pipeline = pipeline_with(files)
    pipeline.fuse_lora(lora_scale=0.3)
    pipeline.unfuse_lora()
    pipeline.fuse_lora(lora_scale=0.3)

    whole = delta_of(fused_by_us(files, 1.0), files)
    got = delta_of(pipeline.transformer, files)
    assert torch.allclose(got, 0.09 * whole, atol=1e-6), MENDED


def test_upstream_after_scale_zero_the_lora_is_gone(files: Path) -> None:
    pipeline = pipeline_with(files)
    pipeline.fuse_lora(lora_scale=0.0)
    pipeline.unfuse_lora()
    pipeline.fuse_lora(lora_scale=1.0)

    assert not delta_of(pipeline.transformer, files).any(), MENDED


def test_upstream_one_fuse_and_unfuse_in_bfloat16_changes_the_weights(files: Path) -> None:
    pipeline = pipeline_with(files, torch.bfloat16)
    before = weights(pipeline.transformer)
    pipeline.fuse_lora()
    pipeline.unfuse_lora()

    after = weights(pipeline.transformer)
    changed = sum(int((after[name] != before[name]).sum()) for name in before)
    assert changed > 0.05 * sum(tensor.numel() for tensor in before.values()), MENDED


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scales_neither_multiply_nor_wear_off_nor_round(files: Path, dtype: torch.dtype) -> None:
    transformer, control = ours_with(files, dtype)
    for scale in (0.3, 0.0, 1.0, 0.3, 0.3):
        control.set_scale(scale)

    assert equal(weights(transformer), weights(fused_by_us(files, 0.3, dtype)))
