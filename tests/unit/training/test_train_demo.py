"""The parts of scripts/train_demo on which the miniature's figures rest."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn

from train_demo.__main__ import note_training
from train_demo.architecture import (
    SIZES,
    build_transformer,
    build_vae,
    untrained_lora,
    write_card,
)
from train_demo.control import load_lora, lora_state, midway, with_control
from train_demo.flow import Batch, flow_loss
from train_demo.latents import LatentShelf
from train_demo.pictures import Shelf, Stored
from train_demo.plain import (
    CornerTaps,
    PlainPictures,
    border_loss,
    merge_corner_taps,
    with_corner_taps,
)
from train_demo.polish import polish_decoder
from train_demo.render import FIRST_OBJECT_REGION, FLOOR_REGION, render
from train_demo.scenes import sample_scene
from train_demo.scores import objects_filled
from train_demo.vae import FineCrops

TINY = SIZES["tiny"]


@pytest.fixture
def vae() -> AutoencoderKL:
    """An untrained autoencoder of the trained demo's compression."""
    torch.manual_seed(0)
    return build_vae(TINY, 16).eval()


@pytest.fixture
def transformer() -> FluxTransformer2DModel:
    """An untrained transformer."""
    torch.manual_seed(0)
    return build_transformer(TINY)


def given_random_taps(vae: AutoencoderKL) -> AutoencoderKL:
    """The autoencoder with corner taps that are not zero."""
    with_corner_taps(vae)
    for module in vae.modules():
        if isinstance(module, CornerTaps):
            nn.init.normal_(module.taps)
    return vae


def test_corner_taps_move_the_corners_of_an_even_plane_and_nothing_else() -> None:
    taps = CornerTaps(torch.zeros(3, 5, 3, 3))
    nn.init.normal_(taps.taps)
    even = torch.randn(1, 5, 1, 1).expand(1, 5, 6, 7)

    moved = nn.functional.conv2d(even, taps(torch.zeros(3, 5, 3, 3)), padding=1)[0].abs() > 1e-4

    corners = torch.zeros(3, 6, 7, dtype=torch.bool)
    corners[:, [0, 0, -1, -1], [0, -1, 0, -1]] = True
    assert torch.equal(moved, corners)


@torch.no_grad()
def test_merged_corner_taps_answer_alike_and_leave_a_plain_autoencoder(vae: AutoencoderKL) -> None:
    names, latents = set(vae.state_dict()), torch.randn(1, 16, 4, 4)
    given_random_taps(vae)
    before = vae.decode(latents).sample

    merge_corner_taps(vae)

    assert torch.allclose(vae.decode(latents).sample, before, atol=1e-5)
    assert set(vae.state_dict()) == names


def test_an_error_in_a_corner_costs_more_than_at_an_edge_and_in_the_middle_nothing() -> None:
    wanted = torch.zeros(1, 3, 64, 64)
    cost = {}
    for name, row, column in (("corner", 0, 0), ("edge", 0, 32), ("middle", 32, 32)):
        made = wanted.clone()
        made[0, :, row, column] = 0.5
        cost[name] = border_loss(made, wanted).item()

    assert cost["corner"] > 10 * cost["edge"] > 0
    assert cost["middle"] == 0


def test_plain_greys_are_levels_of_a_file_and_come_most_often_near_the_jump(
    vae: AutoencoderKL,
) -> None:
    plain = PlainPictures(vae, 0)
    levels = [(plain._grey()[0, 0, 0].item() + 1) * 127.5 for _ in range(2000)]

    assert all(abs(level - round(level)) < 1e-3 and -0.01 < level < 255.01 for level in levels)
    near = sum(abs(level - 127) <= 16 for level in levels)
    assert near > 0.3 * len(levels)  # evenly drawn they would be an eighth
    assert min(levels) < 1
    assert max(levels) > 254


def test_plain_pictures_go_with_the_latents_of_the_same_size(vae: AutoencoderKL) -> None:
    plain = PlainPictures(vae, 3)

    for _ in range(3):
        latents, pictures = plain.batch()
        assert latents.shape[0] == pictures.shape[0]
        assert [16 * side for side in latents.shape[-2:]] == list(pictures.shape[-2:])


def test_polishing_leaves_the_encoder_as_it_is(vae: AutoencoderKL, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = Stored(
        colour=rng.integers(0, 255, (1, 3, 512, 512), dtype=np.uint8),
        control=rng.integers(0, 255, (1, 512, 512), dtype=np.uint8),
        region=np.zeros((1, 512, 512), dtype=np.uint8),
    )
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    crops = FineCrops(vae, Shelf("fine", 512, 512, 1, 0), stored, 0)

    polished = polish_decoder(vae, crops, PlainPictures(vae, 0), tmp_path / "state.pt", 0.5)

    after = polished.state_dict()
    assert set(after) == set(before)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("decoder.") for name in moved)


def test_an_object_with_a_hole_is_not_filled() -> None:
    scene = sample_scene(random.Random(5), count=1)
    picture = render(scene, 256, 256)
    floor = picture.colour[:, picture.region == FLOOR_REGION].median(dim=1).values
    rows, _ = torch.where(picture.region == FIRST_OBJECT_REGION)
    holed = picture.colour.clone()
    holed[:, : int(rows.float().median())] = floor[:, None, None]

    (whole,) = objects_filled(picture.colour, picture.region, scene)
    (half,) = objects_filled(holed, picture.region, scene)

    assert whole > 0.95
    assert 0.3 < half < 0.7


def test_a_lora_comes_back_as_it_was_put_in(transformer: FluxTransformer2DModel) -> None:
    rank = TINY.lora_rank
    state = untrained_lora(transformer, rank, torch.Generator().manual_seed(1))
    model = with_control(transformer, rank)

    load_lora(model, state)

    again = lora_state(model)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_midway_lies_between_two_loras() -> None:
    first, second = {"a": torch.zeros(2, 2)}, {"a": torch.full((2, 2), 3.0).half()}

    assert torch.equal(midway(first, second)["a"], torch.full((2, 2), 1.5))


def test_a_token_of_weight_nothing_does_not_count(transformer: FluxTransformer2DModel) -> None:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 16, 8, 8, generator=generator)
    states = torch.randn(1, 32, TINY.text_width, generator=generator)
    pooled = torch.randn(1, TINY.text_width, generator=generator)

    def loss(weights: torch.Tensor | None) -> float:
        torch.manual_seed(3)
        batch = Batch(latents, states, pooled, weights=weights)
        with torch.no_grad():
            return flow_loss(transformer, batch, torch.tensor([0.5])).item()

    first, second = torch.zeros(1, 16), torch.zeros(1, 16)
    first[:, :4], second[:, 4:] = 1, 1
    assert loss(torch.ones(1, 16)) == pytest.approx(loss(None))
    assert loss(first) + loss(second) == pytest.approx(loss(None))
    assert loss(first) < loss(None)


def test_the_tokens_of_objects_are_known_in_the_mirror_too() -> None:
    region = np.zeros((1, 96, 96), dtype=np.uint8)
    region[0, 40, 4] = FIRST_OBJECT_REGION
    region[0, 40, 90] = FLOOR_REGION
    shelf = Shelf("square", 96, 96, 1, 0)
    colour = np.zeros((1, 2, 16, 12, 12), dtype=np.float16)
    latents = LatentShelf(shelf, 2, colour, None, 1, region)

    plain, mirrored = latents.objects([(0, False), (0, True)]).view(2, 6, 6)

    assert torch.equal(plain, mirrored.flip(-1))
    assert plain.nonzero().tolist() == [[row, column] for row in (1, 2, 3) for column in (0, 1)]


def test_a_stage_adds_its_time_to_the_card_and_keeps_what_it_says_of_others(tmp_path: Path) -> None:
    write_card(tmp_path, {"trained": True, "recipe": "there", "seconds": {"vae": 7}})

    note_training(tmp_path, "polish-vae", 3.0)

    training = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))["training"]
    assert training == {"trained": True, "recipe": "there", "seconds": {"vae": 7, "polish-vae": 3}}
