"""What Prometheus is told. Names and units follow its conventions; no label holds a caller's text.

Knows nothing of what is counted.

Source: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: From a demo picture on a CPU to FLUX without a GPU.
_SECONDS = (0.25, 0.5, 1, 2, 3, 5, 8, 13, 21, 34, 60, 120, 300, 900, 3600)


class Metrics:
    """A server's counters; each server has its own.

    Attributes:
        http_requests: answers, by route, method and status.
        predictions_ended: by how.
        inference: of completed predictions, in seconds.
        worker_restarts: workers that ended unasked.
        webhooks: attempts, by what became of them.
        refusals: submissions refused because too much waits or is asked for.
        sync_waits_refused: sync submissions answered at once since too many waited.
        mean_inference_s: of the last ones, in seconds.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.http_requests = Counter(
            "depthflux_http_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self.predictions_ended = Counter(
            "depthflux_predictions_ended",
            "Predictions that ended.",
            ("status",),
            registry=self._registry,
        )
        self.inference = Histogram(
            "depthflux_inference_seconds",
            "Inference of completed predictions.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.worker_restarts = Counter(
            "depthflux_worker_restarts", "Workers that ended unasked.", registry=self._registry
        )
        self.webhooks = Counter(
            "depthflux_webhooks",
            "Webhooks sent, by what became of the attempt.",
            ("outcome",),
            registry=self._registry,
        )
        self.refusals = Counter(
            "depthflux_refusals",
            "Submissions refused because too much is waiting or asked for.",
            registry=self._registry,
        )
        self.sync_waits_refused = Counter(
            "depthflux_sync_waits_refused",
            "Sync submissions answered at once because too many were waiting.",
            registry=self._registry,
        )
        self._waiting = Gauge(
            "depthflux_predictions",
            "Predictions in the store.",
            ("status",),
            registry=self._registry,
        )
        self._ready = Gauge(
            "depthflux_workers_ready", "Workers that can paint.", registry=self._registry
        )
        #: Mean inference so far, in seconds, which decides what Retry-After says.
        self.mean_inference_s = 0.0

    def note_end(self, status: str, inference_ms: int) -> None:
        """A prediction has ended."""
        self.predictions_ended.labels(status).inc()
        if inference_ms:
            seconds = inference_ms / 1000
            self.inference.observe(seconds)
            # The newest counts a fifth: sizes and steps change over a day.
            before = self.mean_inference_s or seconds
            self.mean_inference_s = before + 0.2 * (seconds - before)

    def render(self, counts: Callable[[], Mapping[str, int]], ready: int) -> bytes:
        """All of them as Prometheus reads them.

        Args:
            counts: predictions by state.
            ready: workers that can paint.
        """
        found = counts()
        for status in ("created", "processing", "completed", "failed"):
            self._waiting.labels(status).set(found.get(status, 0))
        self._ready.set(ready)
        return generate_latest(self._registry)
