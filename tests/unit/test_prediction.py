"""The prediction: the hosted envelope, and files that are all there or not at all."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from depthflux.contract import GenerationRequest, OutputFile, Prediction
from depthflux.errors import OutputError


def make_prediction(count: int = 2, **fields: object) -> Prediction:
    picture = Image.new("RGB", (8, 8), "red")
    return Prediction(
        request=GenerationRequest(prompt="x", seed=1, num_images=count, **fields),
        model="depthflux/demo",
        images=[picture] * count,
        depth_map=Image.new("L", (8, 8)),
        files=[
            OutputFile(data=b"picture %d" % i, media_type="image/png", extension="png")
            for i in range(count)
        ],
        has_nsfw_contents=[False] * count,
        timings={"inference": 12, "denoise": 9},
        record={},
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    )


def test_the_envelope_is_the_hosted_one_with_every_field() -> None:
    prediction = make_prediction()

    envelope = prediction.envelope()

    assert envelope == {
        "code": 200,
        "message": "success",
        "data": {
            "id": prediction.id,
            "model": "depthflux/demo",
            "outputs": [
                "data:image/png;base64," + base64.b64encode(b"picture %d" % i).decode()
                for i in range(2)
            ],
            "urls": {"get": ""},
            "has_nsfw_contents": [False, False],
            "status": "completed",
            "created_at": "2026-01-02T03:04:05.678Z",
            "error": "",
            "executionTime": 12,
            "timings": {"inference": 12, "denoise": 9},
        },
    }
    assert re.fullmatch("[0-9a-f]{32}", prediction.id)


def test_saving_writes_the_pictures_and_the_envelope_with_file_urls(tmp_path: Path) -> None:
    prediction = make_prediction()

    envelope = prediction.save(tmp_path / "new" / "folder")

    outputs = envelope["data"]["outputs"]
    paths = [Path(url.removeprefix("file://")) for url in outputs]
    assert [path.read_bytes() for path in paths] == [b"picture 0", b"picture 1"]
    assert all(url.startswith("file:///") for url in outputs)
    document = Path(envelope["data"]["urls"]["get"].removeprefix("file://"))
    assert document.name == f"{prediction.id}.json"
    assert json.loads(document.read_text()) == envelope == prediction.envelope()
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 3


def test_base64_outputs_are_bare_before_and_after_saving(tmp_path: Path) -> None:
    prediction = make_prediction(1, enable_base64_output=True)
    expected = [base64.b64encode(b"picture 0").decode()]

    assert prediction.envelope()["data"]["outputs"] == expected
    assert prediction.save(tmp_path)["data"]["outputs"] == expected


def test_a_save_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    prediction = make_prediction()
    # Something of that name is in the way of the document, after the pictures were written.
    (tmp_path / f"{prediction.id}.json").mkdir()
    (tmp_path / f"{prediction.id}.json" / "keep").touch()

    with pytest.raises(OutputError, match="cannot write"):
        prediction.save(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [f"{prediction.id}.json"]
    assert prediction.envelope()["data"]["outputs"][0].startswith("data:")


def test_a_failed_second_save_keeps_the_first(tmp_path: Path) -> None:
    prediction = make_prediction(1)
    first = prediction.save(tmp_path)
    prediction.files = [*prediction.files, prediction.files[0]]
    (tmp_path / f"{prediction.id}-1.png").mkdir()

    with pytest.raises(OutputError, match="cannot write"):
        prediction.save(tmp_path)

    assert prediction.envelope()["data"]["urls"] == first["data"]["urls"]
    assert (tmp_path / f"{prediction.id}-0.png").read_bytes() == b"picture 0"


def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OutputError, match=r"cannot write .* name a folder you may write to"):
        make_prediction().save(tmp_path / "file" / "out")
