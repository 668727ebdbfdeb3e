"""What Prometheus is told."""

from __future__ import annotations

import pytest

from depthflux.server.metrics import Metrics


def rendered(metrics: Metrics, counts: dict[str, int] | None = None, ready: int = 0) -> list[str]:
    return metrics.render(lambda: counts or {}, ready).decode().splitlines()


def test_ends_are_counted_by_state_and_their_inference_in_seconds() -> None:
    metrics = Metrics()

    metrics.note_end("completed", 1500)
    metrics.note_end("completed", 500)
    metrics.note_end("failed", 0)

    lines = rendered(metrics)
    assert 'depthflux_predictions_ended_total{status="completed"} 2.0' in lines
    assert 'depthflux_predictions_ended_total{status="failed"} 1.0' in lines
    assert "depthflux_inference_seconds_sum 2.0" in lines
    assert "depthflux_inference_seconds_count 2.0" in lines


def test_every_state_is_told_of_though_nothing_is_in_it() -> None:
    metrics = Metrics()
    rendered(metrics, {"created": 5, "failed": 2})

    lines = rendered(metrics, {"created": 3, "processing": 1}, ready=2)

    for line in (
        'depthflux_predictions{status="created"} 3.0',
        'depthflux_predictions{status="processing"} 1.0',
        'depthflux_predictions{status="completed"} 0.0',
        'depthflux_predictions{status="failed"} 0.0',
        "depthflux_workers_ready 2.0",
    ):
        assert line in lines


def test_the_mean_of_inferences_follows_the_newest_ones() -> None:
    metrics = Metrics()
    means = [metrics.mean_inference_s]

    for milliseconds in (10_000, 10_000, 0, 20_000):
        metrics.note_end("completed", milliseconds)
        means.append(metrics.mean_inference_s)

    assert means == pytest.approx([0, 10, 10, 10, 12])


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()

    one.note_end("completed", 1000)

    assert 'depthflux_predictions_ended_total{status="completed"} 1.0' in rendered(one)
    assert 'depthflux_predictions_ended_total{status="completed"} 1.0' not in rendered(other)
