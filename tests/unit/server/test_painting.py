"""The real engine as a worker's painter."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from depthflux.contract import GenerationRequest
from depthflux.errors import CancelledError
from depthflux.images import read_image
from depthflux.server.painting import EnginePainter


@pytest.fixture(scope="module")
def painter(demo_engine: Any) -> EnginePainter:
    """The packaged miniature as a painter."""
    return EnginePainter(demo_engine)


def request(room: Image.Image, **fields: Any) -> GenerationRequest:
    return GenerationRequest(
        prompt="a red cube",
        control_image=read_image(room),
        size="512*512",
        num_inference_steps=2,
        seed=3,
        **fields,
    )


def test_a_painter_says_what_runs_and_where(painter: EnginePainter) -> None:
    assert (painter.model, painter.device, painter.device_count) == ("depthflux/demo", "cpu", 1)


def test_a_painter_reads_no_files_of_this_machine(painter: EnginePainter) -> None:
    assert not painter.limits.allow_files
    assert not painter.limits.allow_private_addresses


def test_it_paints_what_the_engine_paints_and_tells_every_step(
    painter: EnginePainter, demo_engine: Any, room: Image.Image
) -> None:
    steps: list[tuple[int, int]] = []

    painted = painter.paint(request(room), lambda *step: steps.append(step), lambda: None)

    expected = demo_engine.generate(request(room))
    assert np.array_equal(np.asarray(painted.images[0]), np.asarray(expected.images[0]))
    assert steps == [(1, 2), (2, 2)]


def test_a_step_that_raises_stops_it(painter: EnginePainter, room: Image.Image) -> None:
    def stop(_step: int, _total: int) -> None:
        raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        painter.paint(request(room), stop, lambda: None)


def test_it_says_when_a_request_s_turn_has_come_and_never_while_another_is_painted(
    painter: EnginePainter, room: Image.Image
) -> None:
    told: list[tuple[str, int]] = []
    other: list[threading.Thread] = []

    def paint(name: str, on_step: Callable[[int], None]) -> None:
        def note(step: int, _total: int = 0) -> None:
            told.append((name, step))
            on_step(step)

        painter.paint(request(room), note, lambda: note(0))

    def start_another(step: int) -> None:
        if step == 0:
            other.append(threading.Thread(target=paint, args=("second", lambda _step: None)))
            other[0].start()

    paint("first", start_another)
    other[0].join(60)

    assert told == [(name, step) for name in ("first", "second") for step in range(3)]


def test_a_request_that_is_not_wanted_when_its_turn_comes_is_not_begun(
    painter: EnginePainter, room: Image.Image
) -> None:
    steps: list[int] = []

    def stop() -> None:
        raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        painter.paint(request(room), lambda step, _total: steps.append(step), stop)

    assert steps == []


def test_without_cuda_no_error_breaks_the_device(painter: EnginePainter) -> None:
    assert not painter.is_broken_by(RuntimeError("CUDA error: an illegal memory access"))
