"""Packing, unpacking, and the pixels that come out of the decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import depthflux
from depthflux.engine.latents import decode, image_ids, pack, to_bytes, unpack
from depthflux.errors import NonFiniteError


def test_unpack_undoes_pack() -> None:
    latents = torch.randn(2, 16, 6, 10)

    tokens = pack(latents)

    assert tokens.shape == (2, 15, 64)
    assert torch.equal(unpack(tokens, 6, 10), latents)


def test_a_token_holds_two_by_two_cells_channels_outermost() -> None:
    latents = torch.arange(2 * 4 * 4).reshape(1, 2, 4, 4)

    token = pack(latents)[0, 1]

    assert token.tolist() == latents[0, :, 0:2, 2:4].flatten().tolist()


def test_image_ids_are_row_and_column_of_each_token() -> None:
    assert image_ids(4, 6).tolist() == [[0, row, column] for row in (0, 1) for column in (0, 1, 2)]


def test_bytes_are_those_that_numpy_rounds_to() -> None:
    levels = (torch.arange(256) / 255 - 0.5) * 2
    halves = ((torch.arange(255) + 0.5) / 255 - 0.5) * 2
    noise = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    values = torch.cat([levels, halves, noise, torch.tensor([-9.0, 9.0])])
    values = values[: len(values) // 3 * 3]
    pixels = values.reshape(3, 1, -1)

    ours = to_bytes(pixels)

    unit = (pixels * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    assert ours.dtype == torch.uint8
    assert ours.is_contiguous()
    assert np.array_equal(ours.numpy(), (unit * 255).round().astype(np.uint8))
    assert (ours.min(), ours.max()) == (0, 255)


@pytest.mark.parametrize(("value", "level"), [(-1.0, 0), (1.0, 255), (-3.0, 0), (3.0, 255)])
def test_the_range_ends_at_black_and_white(value: float, level: int) -> None:
    assert (to_bytes(torch.full((3, 2, 2), value)) == level).all()


def test_a_decoded_picture_is_rgb_rows_by_columns(engine_8x: depthflux.Engine) -> None:
    tokens = torch.randn(1, 2 * 3, 64, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        picture = decode(engine_8x.model, tokens, 4, 6)

    assert picture.shape == (32, 48, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert picture.std() > 5


def test_a_decoder_that_gives_nan_is_an_error(engine_8x: depthflux.Engine) -> None:
    tokens = torch.full((1, 6, 64), float("nan"))

    with torch.no_grad(), pytest.raises(NonFiniteError, match="picture decoder produced NaN"):
        decode(engine_8x.model, tokens, 4, 6)
