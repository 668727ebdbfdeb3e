"""The record: the same pixels again from a picture alone, and what differs is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import depthflux
from depthflux.engine.provenance import differences, replay_settings, request_from_record
from depthflux.errors import InvalidParameterError, UnreadableImageError

FIELDS = {
    "prompt": "a red cube",
    "size": "512*520",
    "num_inference_steps": 2,
    "seed": 9_999_999_999,
    "num_images": 2,
    "control_scale": 0.7,
}


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_picture_alone_gives_the_same_pixels_again(
    output_format: str, engine_8x: depthflux.Engine, room: Image.Image, tmp_path: Path
) -> None:
    prediction = engine_8x.generate(**FIELDS, output_format=output_format, control_image=room)
    envelope = prediction.save(tmp_path)
    second = Path(envelope["data"]["outputs"][1].removeprefix("file://"))

    record = depthflux.read_record(second)
    again = engine_8x.generate(depthflux.request_from_record(record))

    assert np.array_equal(np.asarray(again.images[0]), np.asarray(prediction.images[1]))
    assert again.files[0].extension == second.suffix[1:]
    assert differences(record, again.record) == []


def test_a_png_holds_exactly_the_predictions_pixels(
    engine_8x: depthflux.Engine, room: Image.Image, tmp_path: Path
) -> None:
    prediction = engine_8x.generate(**FIELDS, control_image=room)
    envelope = prediction.save(tmp_path)

    for url, image in zip(envelope["data"]["outputs"], prediction.images, strict=True):
        with Image.open(url.removeprefix("file://")) as saved:
            assert np.array_equal(np.asarray(saved), np.asarray(image))


def test_the_record_holds_everything_that_shaped_the_picture(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    record = engine_8x.generate(
        **FIELDS, control_image=room, webhook_url="https://example.org/?secret=1"
    ).record

    assert record["picture"] == {"index": 0, "seed": 9_999_999_999, "withheld": False}
    assert record["request"]["prompt"] == "a red cube"
    assert len(record["control_image"]["sha256"]) == 64
    assert len(record["control_lora"]["sha256"]) == 64
    assert record["request"]["control_scale"] == 0.7
    assert record["estimator"]["licence"]
    assert record["safety"]["threshold"] == 0.8
    assert all(len(digest) == 64 for digest in record["model"]["sha256"].values())
    assert {"torch", "diffusers", "transformers", "peft", "depthflux"} <= set(record["versions"])
    assert record["hardware"]["threads"] >= 1
    assert record["profile"] == "reference"
    assert record["canvas"]["painted_height"] == 528
    assert "secret" not in str(record)
    assert str(engine_8x.model.files.folder) not in str(record), "paths tell who made it"


def test_a_record_of_a_shipped_profile_says_how_it_ran(
    demo_engine: depthflux.Engine, room: Image.Image
) -> None:
    record = demo_engine.generate(**FIELDS | {"num_images": 1}, control_image=room).record

    assert replay_settings(record) == (
        "demo",
        {
            "dtype": "float32",
            "compile": False,
            "threads": record["hardware"]["threads"],
            "order": "hoisted",
            "quantize": "none",
            "skip_steps": 0.0,
            "max_batch": 1,
            "vae_tiling": False,
            "safety_threshold": 0.8,
            "model": "demo",
        },
    )


def test_a_record_of_before_there_was_another_order_is_replayed_in_diffusers(
    demo_engine: depthflux.Engine, room: Image.Image
) -> None:
    record = demo_engine.generate(**FIELDS | {"num_images": 1}, control_image=room).record
    ran = {name: record["ran"][name] for name in ("dtype", "compiled", "reason")}

    assert replay_settings({**record, "ran": ran})[1]["order"] == "diffusers"


def test_a_record_of_skipped_steps_is_replayed_with_them(
    demo_engine: depthflux.Engine, room: Image.Image
) -> None:
    fields = FIELDS | {"num_images": 1, "num_inference_steps": 8}
    turbo = depthflux.load("demo", skip_steps=0.5)
    made = turbo.generate(**fields, control_image=room)

    profile, settings = replay_settings(made.record)
    again = depthflux.load(profile, **settings).generate(**fields, control_image=room)

    assert settings["skip_steps"] == 0.5
    assert again.images[0].tobytes() == made.images[0].tobytes()
    plain = demo_engine.generate(**fields, control_image=room)
    assert plain.images[0].tobytes() != made.images[0].tobytes()


def test_a_record_of_a_chosen_attention_kernel_is_replayed_with_it(
    demo_engine: depthflux.Engine, room: Image.Image
) -> None:
    fields = FIELDS | {"num_images": 1}
    record = depthflux.load("demo", attention="math").generate(**fields, control_image=room).record
    usual = demo_engine.generate(**fields, control_image=room).record

    assert replay_settings(record)[1]["attention"] == "math"
    assert "attention" not in replay_settings(usual)[1]


def test_a_record_of_a_model_of_ones_own_asks_for_it(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    record = engine_8x.generate(**FIELDS | {"num_images": 1}, control_image=room).record

    with pytest.raises(InvalidParameterError, match=r"from a folder.*name it with --model"):
        replay_settings(record)
    assert replay_settings(record, model="./mine")[0] == "reference"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "/etc/evil.toml"}, "name it with --profile"),
        ({"hardware": {"threads": 10**6}}, "says that it ran as"),
        ({"ran": {"dtype": "int4", "compiled": False}}, "says that it ran as"),
        (
            {"ran": {"dtype": "float32", "compiled": False, "skip_steps": 7}},
            "says that it ran as",
        ),
        ({"ran": None}, "no part 'ran'"),
    ],
    ids=["profile's path", "threads", "dtype", "skipped steps", "missing"],
)
def test_a_record_cannot_choose_files_or_absurd_settings(
    change: dict[str, object], message: str, demo_engine: depthflux.Engine, room: Image.Image
) -> None:
    record = demo_engine.generate(**FIELDS | {"num_images": 1}, control_image=room).record

    with pytest.raises(InvalidParameterError, match=message):
        replay_settings({**record, **change})


def test_what_differs_is_told_line_by_line(engine_8x: depthflux.Engine, room: Image.Image) -> None:
    record = engine_8x.generate(**FIELDS | {"num_images": 1}, control_image=room).record
    other = {
        **record,
        "versions": {**record["versions"], "torch": "2.0.0"},
        "hardware": {**record["hardware"], "threads": 64},
    }

    assert differences(other, record) == [
        f"versions.torch: '2.0.0' then, {record['versions']['torch']!r} now",
        f"hardware.threads: 64 then, {record['hardware']['threads']!r} now",
    ]


def test_without_the_image_inside_the_replay_asks_for_it(
    miniature_8x: Path, room: Image.Image
) -> None:
    engine = depthflux.load("reference", model=str(miniature_8x), embed_control_image=False)
    prediction = engine.generate(**FIELDS, control_image=room)

    with pytest.raises(InvalidParameterError, match="with --control-image") as caught:
        depthflux.request_from_record(prediction.record)
    again = engine.generate(depthflux.request_from_record(prediction.record, control_image=room))

    assert prediction.record["control_image"]["sha256"] in str(caught.value)
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(prediction.images[0]))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"record_version": 99}, InvalidParameterError),
        ({"record_version": True}, InvalidParameterError),
        ({"picture": {"seed": -1}}, InvalidParameterError),
        ({"request": [["prompt", "x"]]}, InvalidParameterError),
        ({"request": {"prompt": "x", "self": 1}}, InvalidParameterError),
        ({"control_image": "x"}, InvalidParameterError),
        ({"control_image": {"base64": 7}}, UnreadableImageError),
        ({"request": None}, InvalidParameterError),
        ({"picture": {}}, InvalidParameterError),
        ({"control_image": {"base64": "!!"}}, UnreadableImageError),
        ({"request": {"prompt": "x", "size": "1*1"}}, InvalidParameterError),
        ({"request": {"prompt": "", "control_image": "/etc/passwd"}}, InvalidParameterError),
    ],
    ids=[
        "version",
        "version that is a flag",
        "random seed",
        "request as a list",
        "field called self",
        "image as text",
        "image as a number",
        "no request",
        "no seed",
        "damaged image",
        "bad field",
        "a second control image",
    ],
)
def test_a_damaged_record_is_refused(
    change: dict[str, object],
    error: type[Exception],
    engine_8x: depthflux.Engine,
    room: Image.Image,
) -> None:
    record = engine_8x.generate(**FIELDS | {"num_images": 1}, control_image=room).record

    with pytest.raises(error):
        request_from_record({**record, **change})


def test_a_control_image_exchanged_inside_a_record_is_noticed(
    engine_8x: depthflux.Engine, room: Image.Image, depth_ramp: Image.Image
) -> None:
    one, other = (
        engine_8x.generate(**FIELDS | {"num_images": 1}, control_image=image).record
        for image in (room, depth_ramp)
    )
    one["control_image"]["base64"] = other["control_image"]["base64"]

    with pytest.raises(UnreadableImageError, match="another sha256"):
        depthflux.request_from_record(one)


# Further LoRAs ------------------------------------------------------------------------------------


def write_lora(path: Path, seed: int) -> str:
    """A LoRA that fits the untrained miniature; gives its file's sha256."""
    draw = torch.Generator().manual_seed(seed)
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {
        f"{name}.lora_A.weight": torch.randn(4, 32, generator=draw),
        f"{name}.lora_B.weight": torch.randn(32, 4, generator=draw),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def engine_with_loras(miniature_8x: Path, tmp_path: Path) -> depthflux.Engine:
    """An engine with two LoRAs in its folder and one outside it."""
    write_lora(tmp_path / "loras" / "styles" / "ink.safetensors", 0)
    write_lora(tmp_path / "loras" / "wash.safetensors", 1)
    write_lora(tmp_path / "private" / "mine.safetensors", 2)
    return depthflux.load(
        "reference",
        model=str(miniature_8x),
        loras_dir=tmp_path / "loras",
        allow_lora_paths=True,
    )


LORAS = [{"path": "wash"}, {"path": "styles/ink", "scale": -0.5}]


def test_the_record_names_the_loras_and_a_replay_uses_them(
    engine_with_loras: depthflux.Engine, room: Image.Image, tmp_path: Path
) -> None:
    fields = FIELDS | {"num_images": 1, "control_image": room}
    prediction = engine_with_loras.generate(**fields, loras=LORAS)
    prediction.save(tmp_path)

    record = depthflux.read_record(prediction.saved_paths[0])
    again = engine_with_loras.generate(depthflux.request_from_record(record))

    hashes = [write_lora(tmp_path / "same.safetensors", seed) for seed in (1, 0)]
    assert record["loras"] == [
        {"name": "wash.safetensors", "from": "loras_dir", "sha256": hashes[0], "scale": 1.0},
        {"name": "styles/ink.safetensors", "from": "loras_dir", "sha256": hashes[1], "scale": -0.5},
    ]
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(prediction.images[0]))
    assert differences(record, again.record) == []
    without = engine_with_loras.generate(**fields)
    assert not np.array_equal(np.asarray(without.images[0]), np.asarray(prediction.images[0]))


def test_a_lora_that_is_another_now_is_told(
    engine_with_loras: depthflux.Engine, room: Image.Image, tmp_path: Path
) -> None:
    fields = FIELDS | {"num_images": 1, "control_image": room}
    record = engine_with_loras.generate(**fields, loras=LORAS).record
    before = record["loras"][0]["sha256"]
    now = write_lora(tmp_path / "loras" / "wash.safetensors", 9)

    again = engine_with_loras.generate(depthflux.request_from_record(record))

    assert differences(record, again.record) == [f"loras.0: {before!r} then, {now!r} now"]


def test_a_lora_from_elsewhere_is_named_without_its_place_and_asked_for(
    engine_with_loras: depthflux.Engine, room: Image.Image, tmp_path: Path
) -> None:
    path = str(tmp_path / "private" / "mine.safetensors")
    fields = FIELDS | {"num_images": 1, "control_image": room}
    prediction = engine_with_loras.generate(**fields, loras=[{"path": path, "scale": 0.5}])
    record = prediction.record

    with pytest.raises(InvalidParameterError, match="with --loras") as caught:
        depthflux.request_from_record(record)
    again = engine_with_loras.generate(
        depthflux.request_from_record(record, loras=[{"path": path, "scale": 0.5}])
    )

    assert str(tmp_path) not in str(record)
    assert record["request"]["loras"] == [{"path": "mine.safetensors", "scale": 0.5}]
    assert "'mine.safetensors'" in str(caught.value)
    assert record["loras"][0]["sha256"] in str(caught.value)
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(prediction.images[0]))
    assert differences(record, again.record) == []


def test_a_record_from_before_there_were_loras_is_replayed(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    record = engine_8x.generate(**FIELDS | {"num_images": 1}, control_image=room).record
    old = {name: part for name, part in record.items() if name != "loras"}

    assert depthflux.request_from_record(old).loras == []
    assert differences(old, record) == []


@pytest.mark.parametrize(
    ("asked", "described", "message"),
    [
        ([{"path": "/etc/passwd"}], [], "is no name in loras_dir"),
        ([{"path": "../../x"}], [], "is no name in loras_dir"),
        ([{"path": "https://a.example/x"}], [], "is no name in loras_dir"),
        ([{"path": "ink"}], [{"from": "url", "name": "\x1b]0;x"}], r"'\\x1b\]0;x' came from out"),
        ("ink", [], "its loras are 'ink'"),
        ([], [7], r"its loras are \[7\]"),
        ([{}], [], "is no name in loras_dir|path: is required"),
    ],
)
def test_a_record_cannot_choose_files_or_addresses_by_its_loras(
    engine_8x: depthflux.Engine,
    room: Image.Image,
    asked: object,
    described: object,
    message: str,
) -> None:
    record = engine_8x.generate(**FIELDS | {"num_images": 1}, control_image=room).record
    forged = {
        **record,
        "request": {**record["request"], "loras": asked},
        "loras": described,
    }

    with pytest.raises(InvalidParameterError, match=message):
        depthflux.request_from_record(forged)
