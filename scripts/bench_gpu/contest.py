"""The process of one part: runs what `depthflux bench speed` runs and tells what comes of it.

Knows nothing of other parts or of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from bench_gpu.child import Teller
from depthflux.bench.first_picture import run_first_picture
from depthflux.bench.graphs import NUMBERS, SIZES, run_graphs
from depthflux.bench.plan import make_plan
from depthflux.bench.speed import run_speed

#: The first sizes and numbers of pictures, for a rehearsal.
FEW_SIZES, FEW_NUMBERS = SIZES[1:4], NUMBERS[:2]


def main(told: Mapping[str, Any], tell: Teller) -> None:
    """Run one part; its document is told as often as there is more of it."""
    say, keep = partial(_say, tell), partial(_keep, tell)
    fields = told["plan"]
    if told["kind"] == "speed":
        plan = make_plan(**fields)
        keep(run_speed(plan, say=say, announce=_nothing, keep=keep, deadline=told["deadline"]))
    elif told["kind"] == "graphs":
        few = fields["model"] == "small"
        plan = make_plan(**fields | {"sizes": FEW_SIZES if few else SIZES})
        keep(run_graphs(plan, say=say, keep=keep, numbers=FEW_NUMBERS if few else NUMBERS))
    else:
        keep(run_first_picture(make_plan(**fields), say=say, started=told["started"]))


def _say(tell: Teller, line: str) -> None:
    tell(say=line)


def _keep(tell: Teller, document: dict[str, Any]) -> None:
    tell(document=document)


def _nothing(_card: object) -> None:
    pass
