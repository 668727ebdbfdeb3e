"""Times and failures of what was asked. Knows nothing of how it is asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from soak_server.figures import quantiles

#: Different failures that are told by their words.
_SHOWN = 5


class Tally:
    """What came of requests.

    Attributes:
        seconds: by kind of request, how long each took.
        done: by kind, how many came out as they should; those without a time, too.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.done: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    def note(self, kind: str, seconds: float) -> None:
        """One has come out as it should."""
        self.seconds[kind].append(seconds)
        self.done[kind] += 1

    def fail(self, kind: str, words: str) -> None:
        """One has not."""
        self._failures[f"{kind}: {words[:300]}"] += 1

    @property
    def failures(self) -> int:
        """How many have failed."""
        return self._failures.total()

    def milliseconds(self, *kinds: str) -> dict[str, dict[str, float]]:
        """Quantiles of these kinds, or of all."""
        chosen = kinds or tuple(sorted(self.seconds))
        return {kind: quantiles([1000 * s for s in self.seconds[kind]]) for kind in chosen}

    def report(self) -> dict[str, Any]:
        """How many failed, and the commonest words for it."""
        return {
            "failures_count": self.failures,
            "failures": [
                {"count": count, "what": what} for what, count in self._failures.most_common(_SHOWN)
            ],
        }
