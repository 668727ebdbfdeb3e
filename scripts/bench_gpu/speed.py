"""`speed`: the contest against diffusers, part by part, and what is reached of the goals.

Imports no torch and touches no GPU; processes of their own measure. A part's document is written
anew after every round, as NAME.partial.json, and is NAME.json once the part is whole; the next call
passes such parts over and begins the others anew.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench_gpu.parts import LONGEST_SECONDS, REPEAT, Part, all_parts, chosen_parts
from bench_gpu.watching import Ending, environment, hear_out
from depthflux.bench.chart import chart_file
from depthflux.bench.goals import goals
from depthflux.bench.host import commit_here
from depthflux.bench.plan import MODELS, make_plan
from depthflux.files import make_folder, write_atomically

#: Pictures of a request that are painted to count graphs, together so that these are counted, too.
MOST_PICTURES = 4
WHOLE, PARTIAL, CHART = ".json", ".partial.json", ".png"
#: What a contest may take after its last round, for the roofline and the end of its process.
END_SECONDS = 20.0
#: Raised when the form of a `start` document changes.
START_VERSION = 1


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        out: where documents go.
        folder: where compiled code is kept between calls.
        model: `full` or `small`.
        device: `cpu`, `cuda` or `cuda:N`.
        minutes: that the call may take; no part is begun that needs more than is left.
        parts: groups or parts; none for all.
        sizes: that are painted; none for the model's.
        steps: of denoising; None for the model's.
        repeat: rounds that are wanted; None for the model's.
        warmup: runs of each system before them.
        commit: of the code, where git cannot tell.
        arguments: as they were given, for the documents.
    """

    out: Path
    folder: Path
    model: str
    device: str
    minutes: float
    parts: Sequence[str]
    sizes: Sequence[str]
    steps: int | None
    repeat: int | None
    warmup: int
    commit: str | None
    arguments: Sequence[str]

    def plan(self, part: Part, systems: str = "") -> dict[str, Any]:
        """A part's plan as `make_plan` takes it."""
        settings: dict[str, Any] = {"device": self.device}
        if part.kind == "graphs":
            # Where `auto` would not compile, too: a rehearsal counts graphs as well.
            settings["compile"] = True
            settings["max_batch"] = MOST_PICTURES
        return {
            "model": self.model,
            "sizes": list(part.sizes),
            "systems": systems or part.systems,
            "steps": self.steps,
            "repeat": self.repeat or REPEAT[self.model],
            "warmup": self.warmup,
            "num_images": 1,
            "seed": 1,
            "settings": settings,
            "static_shapes": part.options.get("static_shapes", False),
        }


def run(options: Options) -> int:
    """Run what is asked for and not there yet; the last line on standard output is a summary.

    Returns:
        1 where a part failed, else 0; what there was no time for is no failure.

    Raises:
        InvalidParameterError: an unknown part, or a plan that makes no sense.
    """
    deadline = time.time() + 60 * options.minutes
    options = replace(options, commit=options.commit or commit_here())
    if options.commit is None:
        print("no git here: name the commit with --commit", file=sys.stderr)
    parts = chosen_parts(all_parts(options.model, options.sizes), options.parts)
    for part in parts:
        for systems in _systems(part):
            make_plan(**options.plan(part, systems))  # refused now rather than after minutes
    make_folder(options.out)
    states = {}
    for part in parts:
        states[part.name] = _state(part, options, deadline)
        say(part.name, states[part.name])
    rows = goals(read_documents(options.out))
    for row in rows:
        reached = "not measured" if row.measured is None else f"{row.measured:g}"
        print(f"{row.measure}: {reached} ({row.least:g}, aim {row.aim:g})", file=sys.stderr)
    told = [row._asdict() | {"met": row.met, "aim_met": row.aim_met} for row in rows]
    print(json.dumps({"parts": states, "goals": told}))
    return 1 if any(state.startswith("failed") for state in states.values()) else 0


def read_documents(folder: Path) -> list[dict[str, Any]]:
    """Every document of a folder that has figures, partial ones where a part is not whole."""
    documents = []
    for path in sorted(folder.glob(f"*{WHOLE}")):
        document = _read(path)
        if extent(document):
            documents.append(document)
    return documents


def extent(document: Mapping[str, Any]) -> int:
    """How much a document holds: rounds of all sizes, pictures painted, or starts."""
    rounds = sum(measured["rounds_number"] for measured in document.get("sizes", {}).values())
    return rounds + len(document.get("painted", ())) + len(document.get("starts", ()))


def missing(document: Mapping[str, Any]) -> Iterator[str]:
    """Each system of a contest that could not be loaded or failed, with the reason."""
    for name, system in document.get("systems", {}).items():
        if not system["available"]:
            yield f"{name} is not available here: {system['reason']}"
    for measured in document.get("sizes", {}).values():
        yield from (f"{name} {reason}" for name, reason in measured["failed"].items())


def _read(path: Path) -> dict[str, Any]:
    """A document; empty where there is none."""
    if not path.exists():
        return {}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def say(name: str, line: str) -> None:
    """Tell what a part does."""
    print(f"{name}: {line}", file=sys.stderr, flush=True)


def _state(part: Part, options: Options, deadline: float) -> str:
    """Run a part if it is to be run; what came of it, in words."""
    paper = Paper(part, options)
    if other := paper.of_another_plan():
        return f"failed: {other}"
    if paper.is_whole():
        return "there already"
    left = max(deadline - time.time(), 0)
    if left < part.seconds:
        return f"not begun: {left:.0f} s were left, and it may take {part.seconds:.0f} s"
    until = min(deadline, time.time() + LONGEST_SECONDS)
    ending = (_starts if part.kind == "start" else _contest)(part, options, paper, until)
    if ending is None and paper.is_whole():
        return "done"
    ending = ending or Ending("failed", paper.lacks() or "it ended without a document")
    paper.stopped(ending)
    return f"{ending.state}: {ending.reason}"


def _contest(part: Part, options: Options, paper: Paper, until: float) -> Ending | None:
    told = {"kind": part.kind, "plan": options.plan(part), "deadline": until - END_SECONDS}
    return hear_out(
        told, paper.hear, deadline=until, environment=environment(_caches(options.folder / "kept"))
    )


def _starts(part: Part, options: Options, paper: Paper, until: float) -> Ending | None:
    """Start a process for each system, which finds no compiled code or what the last one left."""
    folder = options.folder / "starts" / part.name
    for systems, caches in part.options["starts"]:
        if caches == "empty":
            shutil.rmtree(folder, ignore_errors=True)
        paper.caches = caches
        told = {"kind": part.kind, "plan": options.plan(part, systems), "started": time.time()}
        ending = hear_out(
            told, paper.hear_start, deadline=until, environment=environment(_caches(folder))
        )
        if ending is not None:
            return ending
    paper.finish()
    return None


def _systems(part: Part) -> list[str]:
    """What each process of a part runs; the empty text stands for the part's own."""
    return [systems for systems, _ in part.options.get("starts", (("", ""),))]


def _caches(folder: Path) -> Mapping[str, str]:
    """Where everything is kept that shortens a later start."""
    folder = folder.absolute()
    return {
        "XDG_CACHE_HOME": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }


class Paper:
    """One part's document on the disk.

    Attributes:
        caches: what the process that is starting finds, `empty` or `warm`.
    """

    def __init__(self, part: Part, options: Options) -> None:
        self.caches = ""
        self._part = part
        self._options = options
        self._document: dict[str, Any] = {}
        self._whole = options.out / f"{part.name}{WHOLE}"
        self._partial = options.out / f"{part.name}{PARTIAL}"

    def is_whole(self) -> bool:
        """Whether there is nothing left to measure."""
        return self._whole.exists()

    def of_another_plan(self) -> str:
        """What lies there and was measured otherwise, in words; empty where nothing does."""
        asked = {
            "model": self._options.model,
            "steps": self._options.steps or MODELS[self._options.model].steps,
        }
        for path in (self._whole, self._partial):
            plan = _read(path).get("plan", {})
            for name, value in asked.items():
                if plan.get(name, value) != value:
                    return f"{path} has {name}={plan[name]}, not {value}; name another --out"
        return ""

    def hear(self, message: Mapping[str, Any]) -> None:
        """One message of the measuring process: a line, or the document as far as it is."""
        if "say" in message:
            say(self._part.name, message["say"])
        else:
            self._write(message["document"])

    def hear_start(self, message: Mapping[str, Any]) -> None:
        """One message of a process whose start is measured."""
        if "say" in message:
            say(self._part.name, message["say"])
            return
        start = message["document"]
        shared = {key: start.pop(key) for key in ("versions", "host", "device")}
        starts = [*self._document.get("starts", ()), {"caches": self.caches, **start}]
        self._write(
            {
                "benchmark": "start",
                "version": START_VERSION,
                "date": start["date"],
                "plan": start["plan"],
                **shared,
                "finished": False,
                "starts": starts,
            }
        )

    def finish(self) -> None:
        """There is nothing left to measure."""
        self._write(self._document | {"finished": True})

    def lacks(self) -> str:
        """Which systems have no figures and why, in words; empty where all have some."""
        return "; ".join(missing(self._document))

    def stopped(self, ending: Ending) -> None:
        """The part ended before its time; why stands in what there is of it."""
        self._write(self._document | {"finished": False, "stopped": " ".join(ending)})

    def _write(self, document: dict[str, Any]) -> None:
        self._document = {
            "part": self._part.name,
            **document,
            "command": " ".join(["scripts/bench-gpu", *self._options.arguments]),
            "commit": self._options.commit,
        }
        data = (json.dumps(self._document, indent=2) + "\n").encode()
        if not document["finished"] or self.lacks():
            # An earlier call may have come further before it was ended.
            if extent(_read(self._partial)) <= extent(document):
                write_atomically(self._partial, data)
            return
        if document["benchmark"] == "speed":
            write_atomically(self._whole.with_suffix(CHART), chart_file(document))
        write_atomically(self._whole, data)
        self._partial.unlink(missing_ok=True)
