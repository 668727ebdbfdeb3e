"""The control LoRA at FLUX's own width and in its own file layout, against a second witness."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from bfl_models import forward, inputs, load, parts, relative
from bfl_reference import Flux, Size, fused, linear_shapes, norm_names, random_base, random_lora
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from depthflux.model.control_lora import ControlLora, attach_control_lora
from depthflux.model.flux_layout import Shape, linear_origins
from depthflux.model.lora_file import read_control_lora
from depthflux.model.tensors import TensorFiles

#: One block of each kind; every other number is FLUX.1-dev's.
FULL_WIDTH = Size(double=1, single=1)
SCALE = 0.7


@dataclass
class Case:
    """A model at full width, fused by us, beside the tensors it came from."""

    base: dict[str, torch.Tensor]
    reference: dict[str, torch.Tensor]
    transformer: Any
    control: ControlLora
    files: TensorFiles


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("full-width")
    base = random_base(FULL_WIDTH, torch.bfloat16)
    lora = random_lora(FULL_WIDTH, torch.bfloat16)
    save_file(base, folder / "base.safetensors")
    save_file(lora, folder / "lora.safetensors")
    transformer, files = load(folder / "base.safetensors", FULL_WIDTH)
    control = attach_control_lora(transformer, folder / "lora.safetensors", files)
    control.set_scale(SCALE)
    return Case(base, fused(base, lora, SCALE), transformer, control, files)


def test_the_whole_pass_at_full_width_is_the_definitions(case: Case) -> None:
    """Every kind of layer: embedders, double and single blocks, the last AdaLN and the output."""
    case.control.set_scale(SCALE)
    given = inputs(FULL_WIDTH, control=True)

    reference = Flux(case.reference, FULL_WIDTH)(**given)

    # float32 rounds in another order here; a swapped half or a missing norm is a thousand times it.
    assert relative(forward(case.transformer, given), reference) < 2e-5


def test_every_fused_tensor_is_the_definitions(case: Case) -> None:
    case.control.set_scale(SCALE)
    now = case.transformer.state_dict()
    origins = linear_origins(Shape.of(case.transformer.config))

    assert {f"{origin.module}" for origin in origins.values()} == set(linear_shapes(FULL_WIDTH))
    for name, part in parts(case.transformer.config).items():
        wanted = case.reference[part.key]
        wanted = wanted if part.rows is None else wanted[slice(*part.rows)]
        wanted = torch.cat(wanted.chunk(2)[::-1]) if part.swapped else wanted
        assert torch.allclose(now[name], wanted, rtol=1e-6, atol=1e-6), name


def test_the_unfused_file_is_never_written_to(case: Case) -> None:
    """A mapped file shares its pages with what is read from it."""
    case.control.set_scale(SCALE)

    for name, part in parts(case.transformer.config).items():
        if part.rows is None and not part.swapped:
            assert torch.equal(case.files.read(name), case.base[part.key]), name


def test_at_scale_zero_the_output_is_plain_fluxs_bit_for_bit(case: Case) -> None:
    case.control.set_scale(0.0)
    plain, _ = load(case.files.paths[0], FULL_WIDTH)
    given = inputs(FULL_WIDTH)
    control = torch.randn(given["image"].shape, generator=torch.Generator().manual_seed(9))
    with_control = given | {"image": torch.cat([given["image"], control], dim=2)}

    assert torch.equal(forward(case.transformer, with_control), forward(plain, given))


# The whole file, 19 and 38 blocks -----------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the published file's tensors at their full shapes but for a rank of 2."""
    path = tmp_path_factory.mktemp("whole") / "flux1-depth-dev-lora.safetensors"
    save_file(random_lora(Size(rank=2), torch.bfloat16), path)
    return path


@pytest.fixture(scope="module")
def flux() -> Any:
    with accelerate.init_empty_weights():
        return FluxTransformer2DModel(guidance_embeds=True)


def test_the_whole_file_fits_flux_and_nothing_is_left_over(whole_lora: Path, flux: Any) -> None:
    lora = read_control_lora(whole_lora, flux, compat="none")

    linears = {n for n, module in flux.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(lora.linears) == linears
    assert len(linears) == 504
    assert len(lora.norms) == len(norm_names(Size())) == 152
    assert all(factors.bias is not None for factors in lora.linears.values())


def test_ours_and_diffusers_conversion_differ_in_the_last_adaln_only(
    whole_lora: Path, flux: Any
) -> None:
    ours = read_control_lora(whole_lora, flux, compat="none")
    theirs = read_control_lora(whole_lora, flux, compat="diffusers")

    def same(name: str) -> bool:
        pairs = zip(
            (ours.linears[name].down, ours.linears[name].up, ours.linears[name].bias),
            (theirs.linears[name].down, theirs.linears[name].up, theirs.linears[name].bias),
            strict=True,
        )
        return all(torch.equal(mine, other) for mine, other in pairs)

    assert [name for name in ours.linears if not same(name)] == ["norm_out.linear"]
    assert all(torch.equal(ours.norms[name], theirs.norms[name]) for name in ours.norms)


def test_diffusers_delta_of_the_last_adaln_has_nothing_of_the_published_one(
    tmp_path: Path, flux: Any
) -> None:
    """The halves of A's rank change places, B's columns do not; hence compat="diffusers"."""
    lora = random_lora(Size(rank=32), torch.bfloat16)
    save_file(lora, tmp_path / "lora.safetensors")
    name = "final_layer.adaLN_modulation.1"
    published = lora[f"{name}.lora_B.weight"].float() @ lora[f"{name}.lora_A.weight"].float()
    published = torch.cat(published.chunk(2)[::-1])

    def cosine(compat: str) -> float:
        factors = read_control_lora(tmp_path / "lora.safetensors", flux, compat=compat).linears[
            "norm_out.linear"
        ]
        delta = factors.up.float() @ factors.down.float()
        return torch.cosine_similarity(delta.flatten(), published.flatten(), dim=0).item()

    assert cosine("none") > 0.9999
    assert abs(cosine("diffusers")) < 0.05
