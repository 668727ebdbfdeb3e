"""What `read_image` takes, what it makes of it, and what it leaves behind."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from image_fixtures import answer, encode, png_chunk
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from depthflux.images import ReadLimits, read_image


def test_a_path_may_be_text_or_path_and_the_name_does_not_decide_the_format(photo, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(Image.fromarray(photo), "PNG"))

    for source in (path, str(path), path.as_uri()):
        image = read_image(source)

        assert np.array_equal(image.rgb, photo)
        assert image.rgb.dtype == np.uint8
        assert image.rgb.shape == (48, 32, 3)
        assert image.size == (32, 48)
        assert image.grey16 is None
        assert image.media_type == "image/png"
        assert image.origin == str(path)


def test_a_tilde_is_the_home_folder(photo, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photo.png").write_bytes(encode(Image.fromarray(photo), "PNG"))

    assert np.array_equal(read_image("~/photo.png").rgb, photo)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_texts_and_buffers_hold_the_same_picture(photo, name):
    data = encode(Image.fromarray(photo), name)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    standard = base64.b64encode(data).decode()
    sources = {
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "base64": standard,
        "base64 in lines": "\n".join(standard[i : i + 76] for i in range(0, len(standard), 76)),
        "base64 without padding": standard.rstrip("="),
        "URL-safe base64": base64.urlsafe_b64encode(data).decode(),
        "data URI": f"data:image/{name.lower()};base64,{standard}",
        "data URI of a wrong type": f"DATA:text/plain;charset=utf-8;base64,{standard}",
        "percent-encoded data URI": "data:," + urllib.parse.quote_from_bytes(data),
        "percent-encoded base64": f"data:;base64,{urllib.parse.quote(standard, safe='')}",
    }

    for what, source in sources.items():
        assert np.array_equal(read_image(source).rgb, expected), what


def test_a_url_is_fetched_and_its_origin_keeps_no_query(photo, serve):
    server = serve(answer(encode(Image.fromarray(photo), "PNG")))

    image = read_image(
        f"{server.url}/a.png?token=secret", limits=ReadLimits(allow_private_addresses=True)
    )

    assert np.array_equal(image.rgb, photo)
    assert image.origin == f"{server.url}/a.png"


def test_an_image_that_was_read_passes_through(photo):
    image = read_image(photo)

    assert read_image(image) is image


def test_data_is_the_same_picture_again_under_its_hash(photo):
    for source in (photo, Image.fromarray(photo), encode(Image.fromarray(photo), "JPEG")):
        image = read_image(source)

        again = read_image(image.data)

        assert np.array_equal(again.rgb, image.rgb)
        assert again.data == image.data
        assert image.sha256 == hashlib.sha256(image.data).hexdigest()


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    )
)
@settings(max_examples=60, deadline=None)
def test_uint8_arrays_keep_every_value(array):
    image = read_image(array)

    assert np.array_equal(image.rgb, np.broadcast_to(array, (*array.shape[:2], 3)))
    assert np.array_equal(read_image(image.data).rgb, image.rgb)


@given(arrays.arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(max_examples=60, deadline=None)
def test_16_bit_grey_keeps_every_value_in_grey16(array):
    for source in (array, array.astype(">u2"), Image.fromarray(array)):
        image = read_image(source)

        assert np.array_equal(image.grey16, array)
        assert image.grey16.dtype == np.uint16
        assert np.array_equal(read_image(image.data).grey16, array)
        nearest = np.abs(image.rgb[:, :, 0] * 257.0 - array)
        assert nearest.max() <= 128.5


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4))))
@settings(max_examples=40, deadline=None)
def test_alpha_is_composited_over_white(array):
    share = array[:, :, 3:].astype(float) / 255
    expected = array[:, :, :3] * share + 255 * (1 - share)

    image = read_image(array)

    assert np.abs(image.rgb - expected).max() <= 1.01
    from_file = read_image(encode(Image.fromarray(array), "PNG"))
    assert np.array_equal(from_file.rgb, image.rgb)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_are_spread_over_the_whole_range(kind):
    grey = np.array([[0, 0.5, 1]], dtype=kind)

    read = read_image(grey)

    assert read.grey16.tolist() == [[0, 32768, 65535]]
    assert read.rgb[0, :, 0].tolist() == [0, 128, 255]
    colour = read_image(np.stack([grey, grey, 1 - grey], axis=-1))
    assert colour.rgb.tolist() == [[[0, 0, 255], [128, 128, 128], [255, 255, 0]]]
    assert colour.grey16 is None


def test_a_float_picture_of_pillow_keeps_16_bits():
    grey = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)

    read = read_image(Image.fromarray(grey))

    assert np.abs(read.grey16 / 65535 - grey).max() < 1e-5


def test_arrays_need_neither_order_nor_alignment(photo):
    for view in (photo[::-1, ::-1], np.asfortranarray(photo), photo[::2, ::3]):
        assert np.array_equal(read_image(view).rgb, view)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"],
)
def test_pillow_modes_become_the_rgb_that_pillow_shows(photo, mode):
    ways = {"La": ["LA", "La"], "RGBa": ["RGBA", "RGBa"], "PA": ["P", "PA"]}
    image = Image.fromarray(photo)
    for step in ways.get(mode, [mode]):
        image = image.convert(step)

    read = read_image(image)

    assert image.mode == mode
    back = image.convert("LA") if mode == "La" else image
    assert np.array_equal(read.rgb, np.asarray(back.convert("RGB")))
    assert read.origin == "PIL image"


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_pillow_modes_of_16_bit_grey_keep_all_of_it(mode):
    values = np.array([[0, 1, 255, 256], [32768, 40000, 65534, 65535]], dtype=np.uint16)
    if mode == "I":
        image = Image.fromarray(values.astype(np.int32))
    else:
        order = ">u2" if mode == "I;16B" else "<u2"
        image = Image.frombytes(mode, (4, 2), values.astype(order).tobytes())
    assert image.mode == mode

    assert np.array_equal(read_image(image).grey16, values)


def test_a_palette_with_a_transparent_colour_shows_white_there():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])

    read = read_image(encode(image, "PNG", transparency=1))

    assert read.rgb.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_transparent_level_of_16_bit_grey_is_white():
    data = encode(Image.fromarray(np.array([[7, 9]], dtype=np.uint16)), "PNG")
    at = data.index(b"IDAT") - 4
    data = data[:at] + png_chunk(b"tRNS", struct.pack(">H", 7)) + data[at:]

    assert read_image(data).grey16.tolist() == [[65535, 9]]


def test_an_adobe_cmyk_jpeg_is_not_inverted(photo):
    cmyk = Image.fromarray(photo).convert("CMYK")

    read = read_image(encode(cmyk, "JPEG", quality=100, subsampling=0))

    assert np.abs(read.rgb.astype(int) - photo).mean() < 4


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_survives_in_data(photo, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(name, {})
    data = encode(Image.fromarray(photo), name, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    read = read_image(data)

    assert np.array_equal(read.rgb, np.asarray(expected))
    assert np.array_equal(read_image(read.data).rgb, read.rgb)
    shown_by_others = ImageOps.exif_transpose(Image.open(io.BytesIO(read.data)))
    assert np.array_equal(np.asarray(shown_by_others), read.rgb)
    assert np.array_equal(read_image(Image.open(io.BytesIO(data))).rgb, read.rgb)


def test_orientation_is_found_in_either_byte_order_and_nonsense_is_silent(photo):
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    little = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    jpeg = Image.fromarray(photo)

    assert read_image(encode(jpeg, "JPEG", exif=little)).size == (48, 32)
    for broken in (
        little[:-9],
        b"Exif\0\0junk",
        little.replace(b"\x08\0\0\0", b"\xff\xff\xff\x7f"),
    ):
        assert read_image(encode(jpeg, "JPEG", exif=broken)).size == (32, 48)


SECRET = b"48.2082N 16.3738E Jane Doe"


def private_picture(photo: np.ndarray, name: str) -> bytes:
    """A picture that carries the secret in every place that its format has for texts."""
    image = Image.fromarray(photo)
    text = SECRET.decode()
    exif = Image.Exif()
    exif[0x010E] = text
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + SECRET
    options: dict[str, object] = {"exif": exif, "icc_profile": profile}
    if name == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Author", text)
        info.add_itxt("XML:com.adobe.xmp", text)
        info.add(b"prVt", SECRET, after_idat=True)
        options = {"exif": exif, "pnginfo": info}
    if name in ("JPEG", "WEBP"):
        options["xmp"] = SECRET
    if name == "JPEG":
        options["comment"] = SECRET
    return encode(image, name, **options) + SECRET


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_data_carries_no_metadata_and_shows_the_same_pixels(photo, name):
    given_data = private_picture(photo, name)
    assert given_data.count(SECRET) >= 3

    read = read_image(given_data)

    assert SECRET not in read.data
    image = Image.open(io.BytesIO(read.data))
    image.load()
    assert dict(image.getexif()) == {0x0112: 6}
    assert set(image.info) <= {"exif", "jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi",
                               "loop", "background", "timestamp", "duration"}  # fmt: skip
    original = ImageOps.exif_transpose(Image.open(io.BytesIO(given_data)).convert("RGB"))
    assert np.array_equal(ImageOps.exif_transpose(image.convert("RGB")), np.asarray(original))


def test_a_jpeg_of_several_pictures_is_its_first_and_no_more(photo):
    image = Image.fromarray(photo)
    data = encode(image, "MPO", save_all=True, append_images=[image.rotate(90)])
    assert Image.open(io.BytesIO(data)).n_frames == 2

    read = read_image(data)

    assert read.rgb.shape == photo.shape
    assert Image.open(io.BytesIO(read.data)).format == "JPEG"
    assert len(read.data) < len(data) / 2 + 200


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        pytest.param(np.full((20, 20, 3), 90, np.uint8), False, id="grey"),
        pytest.param(np.full((20, 20, 3), (90, 95, 85), np.uint8), False, id="tinted by rounding"),
        pytest.param(np.full((20, 20, 3), (90, 120, 85), np.uint8), True, id="green"),
        pytest.param(np.eye(600, dtype=np.uint8)[:, :, None] * [255, 0, 0], False, id="few pixels"),
    ],
)
def test_is_coloured_means_noticeably(array, expected):
    assert read_image(array.astype(np.uint8)).is_coloured is expected


def test_a_log_line_of_an_image_is_short(photo):
    assert len(repr(read_image(photo))) < 300


def test_the_package_needs_no_network_library_until_a_url_comes():
    code = (
        "import sys, depthflux.images; sys.exit('httpx' in sys.modules or 'torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
