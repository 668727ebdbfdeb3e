"""Pictures are judged and encoded in worker threads: in order, whole, and nothing is left over."""

from __future__ import annotations

import io
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

import depthflux
from depthflux.engine.output import Finisher
from depthflux.images import encode_image, read_record
from depthflux.safety import placeholder

THREADS = "depthflux-output"


class BrightChecker:
    """Flags white pictures; slow where it is told to be."""

    def __init__(self, slow: threading.Event | None = None) -> None:
        self.slow = slow
        self.judged = 0

    def flags(self, images: list[Image.Image]) -> list[bool]:
        if self.slow is not None:
            self.slow.wait(10)
        self.judged += len(images)
        return [bool(np.asarray(image).mean() > 250) for image in images]


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (64, 48), (value, value, value))


def describe(index: int, withheld: bool) -> dict[str, Any]:
    return {"index": index, "withheld": withheld}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def running() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(THREADS)]


def test_pictures_come_back_in_order_each_with_its_own_record() -> None:
    with Finisher("png", None, describe) as finisher:
        for value in range(8):
            finisher.add(grey(value))
        finished = finisher.finished()

    for index, one in enumerate(finished):
        assert (pixels(one.file.data) == index).all()
        assert one.picture.getpixel((0, 0)) == (index, index, index)
        assert one.record == {"index": index, "withheld": False}
        assert read_record(one.file.data) == one.record


@pytest.mark.parametrize(
    ("output_format", "media_type", "extension"),
    [("png", "image/png", "png"), ("jpeg", "image/jpeg", "jpeg"), ("webp", "image/webp", "webp")],
)
def test_the_file_is_what_encoding_at_once_gives(
    output_format: Any, media_type: str, extension: str, room: Image.Image
) -> None:
    with Finisher(output_format, None, describe) as finisher:
        finisher.add(room)
        (one,) = finisher.finished()

    assert one.file.data == encode_image(room, output_format, record=describe(0, False))
    assert one.file.media_type == media_type
    assert one.file.extension == extension


def test_a_flagged_picture_is_nowhere_in_the_result() -> None:
    with Finisher("png", BrightChecker(), describe) as finisher:
        for value in (10, 255, 20):
            finisher.add(grey(value))
        finished = finisher.finished()

    withheld = finished[1]
    assert [one.withheld for one in finished] == [False, True, False]
    assert np.array_equal(pixels(withheld.file.data), np.asarray(placeholder((64, 48))))
    assert np.array_equal(np.asarray(withheld.picture), np.asarray(placeholder((64, 48))))
    assert withheld.record["withheld"] is True


def test_nothing_is_judged_where_there_is_no_checker() -> None:
    with Finisher("png", None, describe) as finisher:
        finisher.add(grey(255))
        (one,) = finisher.finished()

    assert one.withheld is False


def test_adding_does_not_wait_for_what_is_being_finished() -> None:
    slow = threading.Event()
    with Finisher("png", BrightChecker(slow), describe) as finisher:
        start = time.perf_counter()
        for value in range(4):
            finisher.add(grey(value))
        waited = time.perf_counter() - start
        slow.set()
        finished = finisher.finished()

    assert waited < 5
    assert [one.record["index"] for one in finished] == [0, 1, 2, 3]


def finish(pictures: int, checker: Any, describe: Any = describe) -> None:
    """Finish grey pictures as the engine does."""
    with Finisher("png", checker, describe) as finisher:
        for value in range(pictures):
            finisher.add(grey(value))
        finisher.wait_for_flags()
        finisher.finished()


def test_what_judging_raises_reaches_the_caller_and_nothing_goes_on_running() -> None:
    class Broken:
        def flags(self, images: list[Image.Image]) -> list[bool]:
            raise OSError("the weights are gone")

    with pytest.raises(OSError, match="the weights are gone"):
        finish(4, Broken())

    assert running() == []


def test_what_describing_raises_reaches_the_caller_and_nothing_goes_on_running() -> None:
    def refuse(index: int, withheld: bool) -> dict[str, Any]:
        raise ValueError("no record")

    with pytest.raises(ValueError, match="no record"):
        finish(4, None, refuse)

    assert running() == []


def test_a_run_that_stops_leaves_no_work_behind() -> None:
    checker = BrightChecker(slow := threading.Event())

    def stop_while_work_waits() -> None:
        with Finisher("png", checker, describe) as finisher:
            for value in range(20):
                finisher.add(grey(value))
            threading.Timer(0.2, slow.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_while_work_waits()

    assert running() == []
    assert checker.judged < 20, "what had not begun is dropped"


def test_a_cancelled_request_leaves_no_work_behind(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    def stop_at_the_second_picture(step: int, total: int) -> None:
        if step == 2:
            raise depthflux.CancelledError("asked to stop")

    with pytest.raises(depthflux.CancelledError, match="asked to stop"):
        engine_8x.generate(
            prompt="x",
            size="512*512",
            num_inference_steps=1,
            num_images=3,
            control_image=room,
            on_step=stop_at_the_second_picture,
        )

    assert running() == []


def test_files_and_records_of_several_pictures_agree(
    engine_8x: depthflux.Engine, room: Image.Image
) -> None:
    prediction = engine_8x.generate(
        prompt="x",
        size="512*512",
        num_inference_steps=1,
        num_images=3,
        seed=9_999_999_999,
        control_image=room,
    )

    records = [read_record(file.data) for file in prediction.files]
    assert [record["picture"]["index"] for record in records] == [0, 1, 2]
    assert [record["picture"]["seed"] for record in records] == [9_999_999_999, 0, 1]
    assert {record["prediction"] for record in records} == {prediction.id}
    assert prediction.record == records[0]
    for image, file in zip(prediction.images, prediction.files, strict=True):
        assert np.array_equal(np.asarray(image), pixels(file.data))
