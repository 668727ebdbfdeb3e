"""Finished pictures as files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from image_fixtures import encode
from PIL import Image

from depthflux import errors
from depthflux.images import EXTENSIONS, MEDIA_TYPES, encode_image, read_image


@pytest.mark.parametrize(
    ("output_format", "mean_error"),
    [("png", 0), ("jpeg", 2), ("webp", 3)],
    ids=["png", "jpeg", "webp"],
)
def test_a_picture_is_written_the_same_every_time_and_as_exact_as_promised(
    photo, output_format, mean_error
):
    image = Image.fromarray(photo)

    data = encode_image(image, output_format)

    assert data == encode_image(image, output_format)
    opened = Image.open(io.BytesIO(data))
    assert opened.get_format_mimetype() == MEDIA_TYPES[output_format]
    assert opened.size == image.size
    assert np.abs(np.asarray(opened.convert("RGB")).astype(int) - photo).mean() <= mean_error


def test_jpeg_keeps_colours_at_full_size(photo):
    data = encode_image(Image.fromarray(photo), "jpeg")

    sampling = {component[1:3] for component in Image.open(io.BytesIO(data)).layer}

    assert sampling == {(1, 1)}


def test_depth_maps_stay_grey_and_16_bits_stay_16(photo):
    grey = Image.fromarray(photo[:, :, 0])
    wide = Image.fromarray(photo[:, :, 1].astype(np.uint16) * 257)

    for output_format in MEDIA_TYPES:
        read = read_image(encode_image(grey, output_format))
        assert not read.is_coloured
    assert np.array_equal(read_image(encode_image(wide, "png")).grey16, np.asarray(wide))


def test_nothing_of_an_images_info_is_written(photo):
    image = Image.open(
        io.BytesIO(encode(Image.fromarray(photo), "PNG", icc_profile=b"profile" * 9))
    )
    assert "icc_profile" in image.info

    for output_format in MEDIA_TYPES:
        written = Image.open(io.BytesIO(encode_image(image, output_format)))
        assert "icc_profile" not in written.info


@pytest.mark.parametrize(
    ("mode", "output_format"),
    [("RGBA", "png"), ("I;16", "jpeg"), ("P", "webp"), ("RGB", "gif"), ("RGB", "PNG")],
)
def test_other_modes_and_formats_are_refused(mode, output_format):
    with pytest.raises(errors.InvalidParameterError, match='allowed are "png"') as caught:
        encode_image(Image.new(mode, (2, 2)), output_format)

    assert caught.value.field == "output_format"


def test_extensions_are_those_of_the_hosted_endpoint():
    assert EXTENSIONS == {"png": "png", "jpeg": "jpeg", "webp": "webp"}
