"""The key layouts that FLUX's components are kept in: every number lands where it belongs."""

from __future__ import annotations

import math
from pathlib import Path

import accelerate
import pytest
import torch
from bfl_reference import Size
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from single_files import (
    clip_shapes,
    convert_flux,
    convert_vae,
    flux_shapes,
    places,
    t5_shapes,
    vae_shapes,
    write_sparse,
)

from depthflux.errors import WeightsCorruptError
from depthflux.model.assembly import fit
from depthflux.model.components import KINDS, Component
from depthflux.model.flux_config import FLUX_CONFIG
from depthflux.model.headers import read_header
from depthflux.model.layouts import find_layout
from depthflux.model.tensors import TensorFiles

FULL_SIZE = {
    "transformer": (flux_shapes(Size()), 11_901_408_320),
    "vae": (vae_shapes((128, 256, 512, 512), 2), 83_819_683),
    "text_encoder": (clip_shapes(), 123_060_480),
    # The embedding is stored twice and counted once.
    "text_encoder_2": (t5_shapes(), 4_762_310_656),
}


def single(name: str, path: Path) -> Component:
    """A single file with FLUX.1-dev's own configuration."""
    return Component(KINDS[name], path, "files", "a file", FLUX_CONFIG[name])


@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_single_file_of_flux_in_full_size_fits_the_table_of_configurations(
    name: str, tmp_path: Path
) -> None:
    shapes, parameters = FULL_SIZE[name]
    path = tmp_path / "file.safetensors"
    write_sparse(path, shapes)

    fitted = fit(single(name, path))

    assert sum(math.prod(h.shape) for h in fitted.tensors.headers.values()) == parameters
    assert all(tensor.is_meta for tensor in fitted.module.parameters())


@pytest.mark.parametrize("name", FULL_SIZE)
def test_comfyuis_checkpoint_of_everything_in_one_file_fits_part_by_part(
    name: str, tmp_path: Path
) -> None:
    prefixes = {
        "transformer": "model.diffusion_model.",
        "vae": "vae.",
        "text_encoder": "text_encoders.clip_l.transformer.",
        "text_encoder_2": "text_encoders.t5xxl.transformer.",
    }
    together = {
        prefix + key: shape
        for component, prefix in prefixes.items()
        for key, shape in FULL_SIZE[component][0].items()
    }
    path = tmp_path / "flux1-dev-fp8.safetensors"
    write_sparse(path, together, dict.fromkeys(together, "F8_E4M3"))

    fitted = fit(single(name, path))

    assert fitted.rounded == "F8_E4M3"
    assert sum(math.prod(h.shape) for h in fitted.tensors.headers.values()) == FULL_SIZE[name][1]


def test_every_number_of_a_transformer_file_lands_where_diffusers_puts_it(tmp_path: Path) -> None:
    size = Size(heads=2, head_width=16, double=2, single=3, text_width=24, pooled_width=20)
    stored = places(flux_shapes(size))
    config = FLUX_CONFIG["transformer"] | {
        "num_layers": size.double,
        "num_single_layers": size.single,
        "attention_head_dim": size.head_width,
        "num_attention_heads": size.heads,
        "joint_attention_dim": size.text_width,
        "pooled_projection_dim": size.pooled_width,
        "axes_dims_rope": [8, 4, 4],
    }
    save_file(as_floats(stored), tmp_path / "flux.safetensors")
    component = Component(
        KINDS["transformer"], tmp_path / "flux.safetensors", "files", "a file", config
    )

    read = fit(component).tensors

    expected = convert_flux(as_floats(stored), size.width)
    assert read.headers.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(read.read(name), tensor), name


def test_every_number_of_an_autoencoder_file_lands_where_diffusers_puts_it(tmp_path: Path) -> None:
    channels = (4, 8, 8, 12)
    with accelerate.init_empty_weights():
        module = AutoencoderKL.from_config(
            FLUX_CONFIG["vae"] | {"block_out_channels": list(channels), "norm_num_groups": 2}
        )
    stored = as_floats(places(vae_shapes(channels, 2)))
    path = tmp_path / "ae.safetensors"
    save_file(stored, path)

    layout = find_layout("vae", module, read_header(path))

    assert layout is not None
    read = TensorFiles([path], layout.parts)
    expected = convert_vae(stored, len(channels))
    assert read.headers.keys() == expected.keys() == module.state_dict().keys()
    assert read.left_over == []
    for name, tensor in expected.items():
        assert torch.equal(read.read(name), tensor), name


def as_floats(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Whole numbers below 2^53, which float64 holds exactly."""
    return {name: tensor.double() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("transformer", {"img_in.weight": (3072, 128)}, "img_in.weight is [3072, 128] where "),
        (
            "transformer",
            {"double_blocks.3.img_attn.qkv.weight": (9217, 3072)},
            "double_blocks.3.img_attn.qkv.weight is [9217, 3072] where 9216 rows are needed",
        ),
        (
            "transformer",
            {"single_blocks.0.linear1.bias": (100,)},
            "single_blocks.0.linear1.bias is [100] where [12288] of its rows is needed",
        ),
        ("transformer", {"guidance_in.in_layer.bias": None}, "missing guidance_in.in_layer.bias."),
        ("transformer", {"img_out.bias": (1,)}, "left over img_out.bias."),
        (
            "vae",
            {"decoder.mid.attn_1.q.weight": (512, 512, 3, 3)},
            "decoder.mid.attn_1.q.weight is [512, 512, 3, 3] where [512, 512] is needed",
        ),
        ("vae", {"encoder.conv_in.bias": None}, "missing encoder.conv_in.bias."),
        (
            "text_encoder",
            {"text_model.final_layer_norm.bias": None},
            "missing text_model.final_layer_norm.bias.",
        ),
        ("text_encoder_2", {"shared.weight": (32128, 8)}, "shared.weight is [32128, 8] where "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_named_by_the_files_own_keys(
    name: str, change: dict[str, tuple[int, ...] | None], message: str, tmp_path: Path
) -> None:
    shapes = {key: shape for key, shape in (FULL_SIZE[name][0] | change).items() if shape}
    write_sparse(tmp_path / "file.safetensors", shapes)

    with pytest.raises(WeightsCorruptError) as caught:
        fit(single(name, tmp_path / "file.safetensors"))

    assert "does not fit FLUX.1-dev: " in str(caught.value)
    assert message in f"{caught.value}"


def test_the_file_of_another_model_is_told_in_one_bounded_line(tmp_path: Path) -> None:
    shapes = {
        key.replace("double_blocks.", "double_blocks.1"): shape
        for key, shape in FULL_SIZE["transformer"][0].items()
    }
    write_sparse(tmp_path / "flux.safetensors", shapes)

    with pytest.raises(WeightsCorruptError, match=r"and \d+ more; left over") as caught:
        fit(single("transformer", tmp_path / "flux.safetensors"))

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 20_000


def test_a_file_of_something_else_is_no_component(tmp_path: Path) -> None:
    write_sparse(tmp_path / "ae.safetensors", {"\x1b[2Jmodel.layers.0": (1,)})

    with pytest.raises(WeightsCorruptError, match=r"holds nothing of a FLUX VAE.*'\\x1b") as caught:
        fit(single("vae", tmp_path / "ae.safetensors"))

    assert str(caught.value).isprintable()


def test_the_embedding_of_t5_may_go_by_its_second_name(tmp_path: Path) -> None:
    shapes = dict(FULL_SIZE["text_encoder_2"][0])
    shapes.pop("shared.weight")
    write_sparse(tmp_path / "t5.safetensors", shapes)

    assert fit(single("text_encoder_2", tmp_path / "t5.safetensors")).tensors.left_over == []


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "message"),
    [
        ("scaled_fp8", "F8_E4M3", (0,), "scales of their own (scaled_fp8)"),
        ("encoder.final_layer_norm.scale_weight", "F32", (), "final_layer_norm.scale_weight)"),
        ("shared.weight.quant_state.bitsandbytes__nf4", "U8", (9,), "bitsandbytes__nf4)"),
        ("shared.weight", "I8", (32128, 4096), "holds tensors of I8; only BF16, F16"),
    ],
    ids=["mark", "scale", "nf4", "codes"],
)
def test_quantised_files_are_refused_with_the_file_to_use_instead(
    name: str, dtype: str, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "t5xxl_fp8_e4m3fn_scaled.safetensors"
    shapes = FULL_SIZE["text_encoder_2"][0]
    write_sparse(path, shapes | {name: shape}, dict.fromkeys(shapes, "F8_E4M3") | {name: dtype})

    with pytest.raises(WeightsCorruptError) as caught:
        fit(single("text_encoder_2", path))

    assert message in str(caught.value)
    assert str(caught.value).endswith("; use t5xxl_fp16.safetensors instead.")
    assert "left over" not in str(caught.value)
