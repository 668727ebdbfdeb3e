"""Parts that live elsewhere than on the device: same results, less there at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import depthflux
from depthflux.engine.conditioning import encode_prompt
from depthflux.model.footprint import MODULATION
from depthflux.model.loading import Model
from depthflux.model.offload import (
    decode_in_tiles,
    place_modulations,
    place_text_encoders,
    text_device,
    transformer_device,
)

CPU = torch.device("cpu")
PROMPT = "a red sphere on a green floor, white sky"


@pytest.fixture
def model(miniature_8x: Path) -> Model:
    return depthflux.load("reference", model=str(miniature_8x)).model


class Watch(TorchDispatchMode):
    """Bytes of a module's weights that are there at any operation, and the most of them."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        self.most = 0

    def there(self) -> int:
        return sum(p.nbytes for p in self.module.parameters() if p.device.type != "meta")

    def __torch_dispatch__(self, call: Any, _: Any, args: Any = (), options: Any = None) -> Any:
        self.most = max(self.most, self.there())
        return call(*args, **(options or {}))


@pytest.mark.parametrize("home", ["device", "host", "cpu"])
def test_the_text_encoders_home_changes_no_bit_of_an_embedding(model: Model, home: Any) -> None:
    with torch.no_grad():
        expected = encode_prompt(model, PROMPT)
        place_text_encoders([model.text_encoder, model.text_encoder_2], home, CPU)
        first, second = encode_prompt(model, PROMPT), encode_prompt(model, "a blue cube")

    assert torch.equal(first.tokens, expected.tokens)
    assert torch.equal(first.pooled, expected.pooled)
    assert not torch.equal(second.tokens, expected.tokens)
    assert first.tokens.device == CPU


def test_from_host_memory_one_modules_weights_are_there_at_a_time(model: Model) -> None:
    encoder = model.text_encoder_2
    largest = max(
        sum(p.nbytes for p in module.parameters(recurse=False)) for module in encoder.modules()
    )
    whole = Watch(encoder).there()
    place_text_encoders([encoder], "host", CPU)

    with torch.no_grad(), Watch(encoder) as watch:
        encode_prompt(model, PROMPT)

    assert 0 < watch.most <= largest < whole
    assert watch.there() == 0, "nothing stays behind"


def test_modulations_on_the_host_are_the_same_linears_and_numbers(model: Model) -> None:
    linear = model.transformer.transformer_blocks[0].norm1.linear
    before, weight = linear.weight.clone(), linear.weight
    untouched = {
        name: parameter.data_ptr()
        for name, parameter in model.transformer.named_parameters()
        if not MODULATION.search(name)
    }

    place_modulations(model.transformer, "host", CPU)

    assert linear.weight is weight, "whoever holds the parameter sees it move"
    assert torch.equal(linear.weight, before)
    assert untouched == {
        name: parameter.data_ptr()
        for name, parameter in model.transformer.named_parameters()
        if name in untouched
    }


def test_a_lora_is_fused_into_modulations_on_the_host_as_on_the_device(
    model: Model, miniature_8x: Path
) -> None:
    other = depthflux.load("reference", model=str(miniature_8x)).model
    place_modulations(model.transformer, "host", CPU)

    for each in (model, other):
        each.control_lora.set_scale(0.7)

    weights = other.transformer.state_dict()
    assert all(
        torch.equal(tensor, weights[name])
        for name, tensor in model.transformer.state_dict().items()
    )


def test_what_lives_on_the_host_is_never_read_to_the_device() -> None:
    device = torch.device("cuda:0")

    assert text_device("host", device) == text_device("cpu", device) == CPU
    assert text_device("device", device) == device
    for name in ("transformer_blocks.3.norm1_context.linear.bias", "norm_out.linear.weight"):
        assert transformer_device(name, "host", device) == CPU
        assert transformer_device(name, "device", device) == device
    for name in ("transformer_blocks.3.attn.to_q.weight", "x_embedder.weight"):
        assert transformer_device(name, "host", device) == device


def test_tiles_change_a_decoded_picture_a_little_and_a_small_one_not_at_all(model: Model) -> None:
    """The untrained miniature decodes noise; how much a trained one changes is measured apart."""
    generator = torch.Generator().manual_seed(0)
    small, large = (torch.randn(1, 16, 64, n, generator=generator) for n in (64, 72))

    with torch.no_grad():
        whole = [model.vae.decode(latents, return_dict=False)[0] for latents in (small, large)]
        tiled = [decode_in_tiles(model.vae, latents) for latents in (small, large)]

    assert torch.equal(whole[0], tiled[0]), "512 x 512 is one tile"
    assert whole[1].shape == tiled[1].shape == (1, 3, 512, 576)
    difference = (whole[1] - tiled[1]).abs()
    assert 0 < difference.mean() < 0.2 * whole[1].std()


def test_tiles_leave_the_encoder_whole(model: Model) -> None:
    pixels = torch.rand(1, 3, 512, 576, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        before = model.vae.encode(pixels).latent_dist.parameters
        decode_in_tiles(model.vae, torch.zeros(1, 16, 64, 72))
        after = model.vae.encode(pixels).latent_dist.parameters

    assert torch.equal(before, after)


@pytest.mark.gpu
@pytest.mark.parametrize("home", ["host", "cpu"])
def test_on_a_gpu_the_text_encoders_leave_nothing_behind(miniature_8x: Path, home: Any) -> None:
    device = torch.device("cuda:0")
    model = depthflux.load("exact", model=str(miniature_8x), compile=False).model
    encoders = [model.text_encoder, model.text_encoder_2]
    with torch.no_grad():
        expected = encode_prompt(model, PROMPT)
        place_text_encoders(encoders, home, device)
        embedding = encode_prompt(model, PROMPT)

    assert embedding.tokens.device == device
    assert not any(p.is_cuda for encoder in encoders for p in encoder.parameters())
    error = (embedding.tokens.float() - expected.tokens.float()).abs().max()
    assert error <= (0 if home == "host" else 0.05 * expected.tokens.float().abs().max())
