"""The control LoRA: injected and fused through peft, rescaled without drift."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxControlPipeline
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

import depthflux
from depthflux.errors import LoraMismatchError, WeightsCorruptError
from depthflux.model.control_lora import attach_control_lora


def bare_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> FluxControlPipeline:
    return FluxControlPipeline.from_pretrained(folder, dtype=dtype)


def weights(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in transformer.state_dict().items()}


def test_lora_layers_are_injected_and_every_fused_delta_is_pefts_own(miniature_8x: Path) -> None:
    base = weights(bare_pipeline(miniature_8x).transformer)
    with_layers = bare_pipeline(miniature_8x)
    with_layers.load_lora_weights(load_file(miniature_8x / "control_lora.safetensors"))
    injected = {
        name: module
        for name, module in with_layers.transformer.named_modules()
        if isinstance(module, LoraLayer)
    }
    linears = {
        name
        for name, module in bare_pipeline(miniature_8x).transformer.named_modules()
        if isinstance(module, torch.nn.Linear)
    }

    components = bare_pipeline(miniature_8x).components
    lora = attach_control_lora(components, miniature_8x / "control_lora.safetensors")
    lora.set_scale(1.0)

    assert set(lora.layers) == set(injected) == linears, "every linear carries a LoRA"
    fused = weights(components["transformer"])
    for name, layer in injected.items():
        delta = layer.get_delta_weight("default_0")
        before = base[f"{name}.weight"]
        if before.shape != delta.shape:  # the input embedder, grown by zeros
            before = torch.nn.functional.pad(before, (0, delta.shape[1] - before.shape[1]))
        assert delta.abs().max() > 0, name
        assert torch.equal(lora.delta_weight(name), delta), name
        assert torch.equal(fused[f"{name}.weight"], before + delta), name


def test_the_input_embedder_grows_from_64_to_128_channels(miniature_8x: Path) -> None:
    components = bare_pipeline(miniature_8x).components

    attach_control_lora(components, miniature_8x / "control_lora.safetensors")

    assert components["transformer"].x_embedder.in_features == 128
    assert components["transformer"].config.in_channels == 128


def test_no_lora_layer_is_left_in_the_forward_path(engine_8x: depthflux.Engine) -> None:
    assert not [m for m in engine_8x.model.transformer.modules() if isinstance(m, LoraLayer)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sequence",
    [[0.3, 0.3], [1.0, 0.0, 1.0], [0.0, 2.0, 0.5, 1.7, 0.3], [2.0, 0.0]],
    ids=lambda scales: "-".join(map(str, scales)),
)
def test_any_sequence_of_scales_ends_where_a_fresh_fuse_ends(
    miniature_8x: Path, sequence: list[float], dtype: torch.dtype
) -> None:
    path = miniature_8x / "control_lora.safetensors"
    many, once = (bare_pipeline(miniature_8x, dtype).components for _ in range(2))

    lora = attach_control_lora(many, path)
    for scale in sequence:
        lora.set_scale(scale)
    attach_control_lora(once, path).set_scale(sequence[-1])

    ours, fresh = weights(many["transformer"]), weights(once["transformer"])
    assert all(torch.equal(ours[name], fresh[name]) for name in fresh)
    assert lora.scale == sequence[-1]


def test_scale_zero_is_the_base_models_weights(miniature_8x: Path) -> None:
    base = weights(bare_pipeline(miniature_8x).transformer)
    components = bare_pipeline(miniature_8x).components
    lora = attach_control_lora(components, miniature_8x / "control_lora.safetensors")

    lora.set_scale(1.0)
    lora.set_scale(0.0)

    now = weights(components["transformer"])
    for name, tensor in base.items():
        columns = tensor.shape[1] if name == "x_embedder.weight" else None
        assert torch.equal(now[name][:, :columns] if columns else now[name], tensor), name


def test_weights_change_in_place(engine_8x: depthflux.Engine) -> None:
    """A compiled graph holds on to the storage, so a new tensor would not be seen."""
    linear = engine_8x.model.transformer.transformer_blocks[0].attn.to_q
    engine_8x.model.control_lora.set_scale(0.5)
    address = linear.weight.data_ptr()

    engine_8x.model.control_lora.set_scale(1.5)

    assert linear.weight.data_ptr() == address


def test_a_truncated_lora_is_refused(miniature_8x: Path, tmp_path: Path) -> None:
    data = (miniature_8x / "control_lora.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-100])

    with pytest.raises(WeightsCorruptError, match=r"cut\.safetensors"):
        attach_control_lora(bare_pipeline(miniature_8x).components, tmp_path / "cut.safetensors")


def test_a_lora_of_another_width_is_refused(miniature_8x: Path, tmp_path: Path) -> None:
    tensors = load_file(miniature_8x / "control_lora.safetensors")
    wide = {
        name: torch.nn.functional.pad(t, (0, 8)) if "lora_A" in name else t
        for name, t in tensors.items()
    }
    save_file(wide, tmp_path / "wide.safetensors")

    with pytest.raises(LoraMismatchError, match="does not fit the transformer") as caught:
        attach_control_lora(bare_pipeline(miniature_8x).components, tmp_path / "wide.safetensors")

    factors = [name for name in wide if "lora_A" in name]
    assert all(name in str(caught.value) for name in factors), "every misfit is listed"


def test_a_lora_for_other_modules_is_refused(miniature_8x: Path, tmp_path: Path) -> None:
    tensors = load_file(miniature_8x / "control_lora.safetensors")
    tensors["transformer.blocks.9.lora_A.weight"] = torch.ones(4, 8)
    save_file(tensors, tmp_path / "other.safetensors")

    with pytest.raises(LoraMismatchError, match=r"blocks\.9\.lora_A"):
        attach_control_lora(bare_pipeline(miniature_8x).components, tmp_path / "other.safetensors")


def test_a_lora_without_the_controls_channels_is_refused(
    miniature_8x: Path, tmp_path: Path
) -> None:
    tensors = load_file(miniature_8x / "control_lora.safetensors")
    plain = {name: tensor for name, tensor in tensors.items() if ".x_embedder." not in name}
    save_file(plain, tmp_path / "plain.safetensors")

    with pytest.raises(LoraMismatchError, match="takes no control image"):
        attach_control_lora(bare_pipeline(miniature_8x).components, tmp_path / "plain.safetensors")


def test_non_finite_factors_are_refused(miniature_8x: Path, tmp_path: Path) -> None:
    tensors = load_file(miniature_8x / "control_lora.safetensors")
    name = next(iter(tensors))
    tensors[name] = tensors[name] * float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")

    with pytest.raises(WeightsCorruptError, match="non-finite"):
        attach_control_lora(bare_pipeline(miniature_8x).components, tmp_path / "nan.safetensors")
