"""The control LoRA on small models: fused through peft, rescaled without drift, refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bfl_models import forward, inputs, load, relative
from bfl_reference import Flux, Size, fused, norm_names, random_base, random_lora
from diffusers import FluxControlPipeline
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

import depthflux
from depthflux.errors import LoraMismatchError, WeightsCorruptError
from depthflux.model.control_lora import ControlLora, attach_control_lora
from depthflux.model.lora_file import Factors
from depthflux.model.tensors import TensorFiles

SMALL = Size(heads=2, head_width=16, double=2, single=2, text_width=32, pooled_width=16, rank=4)
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base model and its control LoRA, both in Black Forest Labs' layout and bfloat16."""
    folder = tmp_path_factory.mktemp("small")
    save_file(random_base(SMALL, torch.bfloat16), folder / "base.safetensors")
    save_file(random_lora(SMALL, torch.bfloat16), folder / "lora.safetensors")
    return folder


def attached(
    files: Path, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[Any, ControlLora]:
    transformer, master = load(files / "base.safetensors", SMALL, dtype)
    lora = files / "lora.safetensors"
    return transformer, attach_control_lora(transformer, lora, master, **options)


def weights(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in transformer.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


# The law ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 2.0])
def test_the_pass_at_any_scale_is_the_definitions(files: Path, scale: float) -> None:
    transformer, control = attached(files)
    control.set_scale(scale)
    base, lora = (load_file(files / f"{name}.safetensors") for name in ("base", "lora"))
    given = inputs(SMALL, control=True)

    reference = Flux(fused(base, lora, scale), SMALL)(**given)

    assert relative(forward(transformer, given), reference) < 2e-6


def test_the_input_embedder_grows_from_64_to_128_channels(files: Path) -> None:
    transformer, _ = attached(files)

    assert transformer.x_embedder.in_features == 128
    assert transformer.config.in_channels == 128


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scale_zero_is_the_base_models_weights_norms_and_biases(
    files: Path, dtype: torch.dtype
) -> None:
    plain, _ = load(files / "base.safetensors", SMALL, dtype)
    transformer, control = attached(files, dtype)

    control.set_scale(1.0)
    control.set_scale(0.0)

    now = weights(transformer)
    for name, tensor in weights(plain).items():
        columns = tensor.shape[1] if name == "x_embedder.weight" else None
        assert torch.equal(now[name][:, :columns] if columns else now[name], tensor), name
    assert not now["x_embedder.weight"][:, 64:].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_at_scale_one_the_norms_are_the_loras_own(files: Path, dtype: torch.dtype) -> None:
    transformer, control = attached(files, dtype)
    control.set_scale(1.0)
    lora = load_file(files / "lora.safetensors")

    norms = [tensor for name, tensor in weights(transformer).items() if ".norm_" in name]
    norms = [tensor for tensor in norms if tensor.ndim == 1 and len(tensor) == SMALL.head_width]
    wanted = {tuple(lora[name].to(dtype).tolist()) for name in norm_names(SMALL)}
    assert {tuple(tensor.tolist()) for tensor in norms} == wanted


def test_delta_and_sum_are_rounded_once(files: Path) -> None:
    """In bfloat16 the fused weight is the nearest one to the exact sum, everywhere."""
    transformer, control = attached(files, torch.bfloat16)
    exact, exact_control = attached(files, torch.float32)
    control.set_scale(0.7)
    exact_control.set_scale(0.7)

    wanted = {name: tensor.bfloat16() for name, tensor in weights(exact).items()}
    assert equal(weights(transformer), wanted)


# Changing the scale -------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", ["none", "diffusers"])
@pytest.mark.parametrize("keep", ["file", "host", "device"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_sequence_of_scales_ends_where_a_fresh_fuse_ends(
    miniature_8x: Path, dtype: torch.dtype, keep: str, compat: str
) -> None:
    for sequence in [[0.3, 0.3], [1.0, 0.0, 1.0], [0.0, 2.0, 0.5, 1.7, 0.3], [2.0, 0.0]]:
        many, lora = miniature(miniature_8x, dtype, keep=keep, compat=compat)
        once, fresh = miniature(miniature_8x, dtype, compat=compat)

        for scale in sequence:
            lora.set_scale(scale)
        fresh.set_scale(sequence[-1])

        assert equal(weights(many), weights(once)), sequence
        assert lora.scale == sequence[-1]


def miniature(folder: Path, dtype: torch.dtype, **options: Any) -> tuple[Any, ControlLora]:
    transformer = FluxControlPipeline.from_pretrained(folder, dtype=dtype).transformer
    master = TensorFiles([folder / "transformer/diffusion_pytorch_model.safetensors"])
    lora = folder / "control_lora.safetensors"
    transformer.requires_grad_(False)
    return transformer, attach_control_lora(transformer, lora, master, **options)


def test_a_repeated_scale_changes_nothing_and_costs_nothing(files: Path) -> None:
    _, control = attached(files)

    assert control.set_scale(0.5) == len(control.names)
    assert control.set_scale(0.5) == 0


def test_weights_change_in_place(engine_8x: depthflux.Engine) -> None:
    """A compiled graph holds on to the storage, so a new tensor would not be seen."""
    transformer = engine_8x.model.transformer
    engine_8x.model.control_lora.set_scale(0.5)
    addresses = {name: p.data_ptr() for name, p in transformer.named_parameters()}

    engine_8x.model.control_lora.set_scale(1.5)

    assert {name: p.data_ptr() for name, p in transformer.named_parameters()} == addresses


class Interrupting(dict[str, Factors]):
    """Factors that a signal arrives in the middle of."""

    def items(self) -> Iterator[tuple[str, Factors]]:  # type: ignore[override]
        for index, (name, factors) in enumerate(super().items()):
            down = torch.empty(0) if index == 9 else factors.down
            yield name, Factors(down, factors.up, factors.bias, factors.scaling)


def test_after_an_interrupted_change_the_next_one_is_exact(files: Path) -> None:
    transformer, control = attached(files)
    control.set_scale(1.0)
    whole = control.tensors.linears
    object.__setattr__(control.tensors, "linears", Interrupting(whole))
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        control.set_scale(0.3)
    object.__setattr__(control.tensors, "linears", whole)
    assert control.scale is None

    control.set_scale(1.0)

    other, fresh = attached(files)
    fresh.set_scale(1.0)
    assert equal(weights(transformer), weights(other))


def test_no_lora_layer_is_left_in_the_forward_path(engine_8x: depthflux.Engine) -> None:
    assert not [m for m in engine_8x.model.transformer.modules() if isinstance(m, LoraLayer)]


# diffusers' law -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_compat_diffusers_fuses_to_the_bit_as_diffusers_does(
    miniature_8x: Path, dtype: torch.dtype, scale: float
) -> None:
    pipeline = FluxControlPipeline.from_pretrained(miniature_8x, dtype=dtype)
    pipeline.load_lora_weights(load_file(miniature_8x / "control_lora.safetensors"))
    pipeline.fuse_lora(lora_scale=scale)
    theirs = {n.replace(".base_layer", ""): t for n, t in weights(pipeline.transformer).items()}
    theirs = {name: tensor for name, tensor in theirs.items() if "lora_" not in name}

    ours, lora = miniature(miniature_8x, dtype, compat="diffusers")
    lora.set_scale(scale)

    assert equal(weights(ours), theirs)


def test_compat_diffusers_replaces_the_norms_at_every_scale(tmp_path: Path, files: Path) -> None:
    """In diffusers' names, since diffusers converts the makers' layout at its full size only."""
    transformer, _ = load(files / "base.safetensors", SMALL)
    norm = "transformer_blocks.0.attn.norm_q.weight"
    brought = torch.full((SMALL.head_width,), 3.0)
    embedder = {
        "transformer.x_embedder.lora_A.weight": torch.ones(2, 128),
        "transformer.x_embedder.lora_B.weight": torch.ones(SMALL.width, 2),
    }
    save_file(embedder | {f"transformer.{norm}": brought}, tmp_path / "lora.safetensors")
    master = load(files / "base.safetensors", SMALL)[1]

    control = attach_control_lora(
        transformer, tmp_path / "lora.safetensors", master, compat="diffusers"
    )
    control.set_scale(0.0)

    assert torch.equal(transformer.get_parameter(norm).data, brought)


# Refusals -----------------------------------------------------------------------------------------


def refused(files: Path, tensors: dict[str, torch.Tensor], tmp_path: Path) -> str:
    """The message on a LoRA of these tensors."""
    save_file(tensors, tmp_path / "bad.safetensors")
    transformer, master = load(files / "base.safetensors", SMALL)
    before = weights(transformer)
    with pytest.raises(LoraMismatchError, match=r"bad\.safetensors does not fit") as caught:
        attach_control_lora(transformer, tmp_path / "bad.safetensors", master)
    assert equal(weights(transformer), before), "a refused LoRA leaves no trace"
    return str(caught.value)


def test_a_lora_of_another_width_is_refused_and_every_misfit_listed(
    files: Path, tmp_path: Path
) -> None:
    lora = load_file(files / "lora.safetensors")
    wide = {n: torch.nn.functional.pad(t, (0, 8)) if "lora_A" in n else t for n, t in lora.items()}

    message = refused(files, wide, tmp_path)

    # Linears that are one in the file are several in diffusers, by whose names they are listed.
    linears = load(files / "base.safetensors", SMALL)[0].named_modules()
    names = [name for name, module in linears if isinstance(module, torch.nn.Linear)]
    assert all(f"transformer.{name}.lora_A.weight [4, " in message for name in names)


def test_a_lora_for_more_blocks_is_refused(files: Path, tmp_path: Path) -> None:
    lora = load_file(files / "lora.safetensors")
    lora["double_blocks.7.img_attn.proj.lora_A.weight"] = torch.ones(4, 32)

    assert "double_blocks.7.img_attn.proj.lora_A.weight has no place" in refused(
        files, lora, tmp_path
    )


def test_rows_beyond_a_linear_that_is_cut_are_refused_not_dropped(
    files: Path, tmp_path: Path
) -> None:
    lora = load_file(files / "lora.safetensors")
    key = "single_blocks.0.linear1.lora_B.weight"
    lora[key] = torch.nn.functional.pad(lora[key], (0, 0, 0, 5))

    assert f"{key} [229, 4] has not 224 rows" in refused(files, lora, tmp_path)


def test_a_scalar_in_a_factors_place_is_refused(files: Path, tmp_path: Path) -> None:
    lora = load_file(files / "lora.safetensors")
    lora["final_layer.adaLN_modulation.1.lora_B.weight"] = torch.tensor(1.0)

    assert "norm_out.linear.lora_B.weight [] fits nothing" in refused(files, lora, tmp_path)


def test_a_rank_of_nothing_is_refused(files: Path, tmp_path: Path) -> None:
    lora = load_file(files / "lora.safetensors")
    lora["txt_in.lora_A.weight"] = lora["txt_in.lora_A.weight"][:0].contiguous()
    lora["txt_in.lora_B.weight"] = lora["txt_in.lora_B.weight"][:, :0].contiguous()

    assert "context_embedder.lora_A.weight [0, 32] fits nothing" in refused(files, lora, tmp_path)


def test_names_without_their_prefix_are_refused(miniature_8x: Path, tmp_path: Path) -> None:
    lora = load_file(miniature_8x / "control_lora.safetensors")
    for factor in ("A", "B"):
        key = f"proj_out.lora_{factor}.weight"
        lora[key] = lora.pop(f"transformer.{key}")
    save_file(lora, tmp_path / "mixed.safetensors")
    pipeline = FluxControlPipeline.from_pretrained(miniature_8x)
    master = TensorFiles([miniature_8x / "transformer/diffusion_pytorch_model.safetensors"])

    with pytest.raises(LoraMismatchError, match=r"proj_out\.lora_A\.weight .* fits nothing there"):
        attach_control_lora(pipeline.transformer, tmp_path / "mixed.safetensors", master)


def test_a_base_file_exchanged_before_it_is_read_is_an_error(files: Path, tmp_path: Path) -> None:
    """Half of one model and half of another would paint, and nobody would know."""
    base = tmp_path / "base.safetensors"
    base.write_bytes((files / "base.safetensors").read_bytes())
    master = TensorFiles([base])
    other = tmp_path / "other.safetensors"
    save_file(random_base(SMALL, torch.bfloat16, seed=8), other)
    other.replace(base)

    with pytest.raises(WeightsCorruptError, match="has changed"):
        master.read("img_in.weight")


@pytest.mark.parametrize("half", ["lora_A.weight", "lora_B.weight"])
def test_a_lora_with_half_a_pair_is_refused(files: Path, tmp_path: Path, half: str) -> None:
    lora = load_file(files / "lora.safetensors")
    del lora[f"single_blocks.1.linear2.{half}"]

    assert "single_transformer_blocks.1.proj_out.lora_" in refused(files, lora, tmp_path)


def test_a_lora_without_the_controls_channels_is_refused(files: Path, tmp_path: Path) -> None:
    lora = load_file(files / "lora.safetensors")
    plain = {name: tensor for name, tensor in lora.items() if not name.startswith("img_in.")}

    assert "takes no control image" in refused(files, plain, tmp_path)


def test_a_truncated_lora_is_refused(files: Path, tmp_path: Path) -> None:
    data = (files / "lora.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-100])
    transformer, master = load(files / "base.safetensors", SMALL)

    with pytest.raises(WeightsCorruptError, match=r"cut\.safetensors"):
        attach_control_lora(transformer, tmp_path / "cut.safetensors", master)


def test_non_finite_factors_are_refused(files: Path, tmp_path: Path) -> None:
    lora = load_file(files / "lora.safetensors")
    lora["img_in.lora_A.weight"] = lora["img_in.lora_A.weight"] * float("nan")
    save_file(lora, tmp_path / "nan.safetensors")
    transformer, master = load(files / "base.safetensors", SMALL)

    with pytest.raises(WeightsCorruptError, match=r"non-finite numbers in img_in\.lora_A"):
        attach_control_lora(transformer, tmp_path / "nan.safetensors", master)
