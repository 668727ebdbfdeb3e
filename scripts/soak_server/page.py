"""docs/benchmarks/server.md, from server.json; only words and tables, nothing is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fidelity_report.markdown import listed, prose, table
from soak_server.goals import Goal, goals
from soak_server.load import MOST_P99_MS

_QUANTILES = ("p50", "p95", "p99", "max")
_HEADER = ("ms", *_QUANTILES, "number")

_CORES = ("cores: server", "worker", "generator", "others")
_USAGE = ("of no file", "files", "threads")
_LOOKS = ("minute", "server MB", *_USAGE, "worker MB", *_USAGE, "data folder MB")

_CALLS = {
    "livez": "`GET /livez`",
    "poll": "`GET …/result`",
    "submit_url": "submit, an uploaded URL",
    "submit_inline": "submit, inline base64",
    "upload": "upload",
}


def render(document: Mapping[str, Any]) -> str:
    """The page.

    Args:
        document: server.json.
    """
    parts = document["parts"]
    sections = {"overhead": _overhead, "load": _load, "memory": _memory}
    return (
        "".join(
            [
                "# The server's benchmarks\n\n",
                prose(
                    "How quick `depthflux serve` is around an engine that does nothing for 50 ms, "
                    "and whether its memory stays flat. Server, store and worker are the real "
                    "ones; the engine is `scripts/stand_in`'s. Load generator and server share "
                    "the machine. This page is written by `scripts/soak` from "
                    "[server.json](server.json)."
                ),
                "## Goals\n\n",
                goals_table(parts),
                *(write(parts[name]) for name, write in sections.items() if name in parts),
            ]
        ).rstrip()
        + "\n"
    )


def goals_table(parts: dict[str, Any]) -> str:
    """Promises, expectations and figures."""
    return table(
        ("goal", "must be", "expected before", "measured", "reached"),
        (
            (goal.what, goal.must, goal.expected, goal.measured, _reached(goal))
            for goal in goals(parts)
        ),
    )


def _reached(goal: Goal) -> str:
    return "-" if goal.reached is None else "yes" if goal.reached else "**no**"


def _run(part: Mapping[str, Any]) -> str:
    """What a part was measured on."""
    run = part["run"]
    host, versions = run["host"], run["versions"]
    libraries = ", ".join(f"{name} {number}" for name, number in versions.items())
    return prose(
        f"Measured {run['date']} at commit {run['commit']} with `{run['command']}`: "
        f"{host['processors']} cores of {host['cpu']} ({host['machine']}), load average "
        f"{host['load_average_before']} before it began, Python {run['python']}, {libraries}."
    )


def _busy(cpu: Mapping[str, float]) -> str:
    """What else kept the machine busy while a part was measured."""
    return f"Other processes of this machine kept {cpu['others_cores']:.2f} cores busy meanwhile."


def _overhead(part: Mapping[str, Any]) -> str:
    setting, flush, read = part["setting"], part["flush_ms"], part["read_ms"]
    small, large = setting["control_image"]["side"], setting["large_control_image"]["side"]
    names = {
        "sync_url": f"an uploaded URL, {small}*{small}",
        "sync_inline": f"inline, {small}*{small}",
        "sync_inline_large": f"inline, {large}*{large}",
    }
    added = (_row(words, part["added_ms"][kind]) for kind, words in names.items())
    calls = (_row(words, part["calls_ms"][kind]) for kind, words in _CALLS.items())
    return (
        "## What the server adds\n\n"
        + _run(part)
        + prose(
            f"One client, one request at a time, each kind in turn, {setting['steps']} steps. In "
            f"sync mode, the whole request less the {setting['paint_ms']:g} ms of the stand-in, by "
            f"control image (PNG). {_busy(part['cpu'])}"
        )
        + table(_HEADER, added)
        + prose(
            "Reading the control image is the engine's work, averaging it the stand-in's. Both are "
            f"in these figures: {read['sync_inline']:.1f} ms for the small one, "
            f"{read['sync_inline_large']:.1f} ms for the large one. Before anybody is told that a "
            "request is accepted it is on the disk, and so is a picture before anybody is told of "
            f"it; flushing a file that has grown takes this disk {flush['p50']:.1f} ms "
            f"(p99 {flush['p99']:.1f} ms)."
        )
        + "Single calls, whole:\n\n"
        + table(_HEADER, calls)
    )


def _load(part: Mapping[str, Any]) -> str:
    setting, rates = part["setting"], part["rates"]
    kinds = {
        "client_poll_ms": "clients' polls",
        "submit_ms": "submit",
        "download_ms": "download",
        "until_picture_ms": "submission to picture",
    }
    return (
        "## Polls under load\n\n"
        + _run(part)
        + prose(
            f"{setting['clients']} clients submit, poll every "
            f"{setting['client_poll_pause_ms']:g} ms until it has ended, download the picture, and "
            "begin again. Beside them a poller asks for results of the latest predictions at fixed "
            f"times, whether or not it was answered before, {setting['seconds']:g} s for each "
            "rate; latency counts from the time at which a poll was due, the generator's own "
            "lateness included."
        )
        + table(
            ("polls/s", "and clients'", "p50 ms", "p95", "p99", "max", "late p99", "failures"),
            (_load_row(step) for step in rates),
        )
        + prose(f"Highest rate with p99 < {MOST_P99_MS:g} ms: {_highest(part)}.")
        + table(
            ("polls/s", "pictures/s", "queue p50", "max", *kinds.values(), *_CORES),
            (_clients_row(step, kinds) for step in rates),
        )
        + prose(
            "Times are p50 (p99) in ms. Cores are CPU time by time; others are all other processes "
            f"of this machine. The disk's flush took {part['flush_ms']['p50']:.1f} ms before."
        )
        + _failures(rates)
    )


def _load_row(step: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{step['polls_per_second']:.0f} of {step['wanted_polls_per_second']:g}",
        f"{step['client_polls_per_second']:.0f}",
        *_figures(step["poll_ms"], ("p50", "p95", "p99", "max")),
        f"{step['poll_sent_late_ms']['p99']:.1f}",
        str(step["failures_count"]),
    )


def _clients_row(step: Mapping[str, Any], kinds: Mapping[str, str]) -> tuple[str, ...]:
    cpu = step["cpu"]
    return (
        f"{step['polls_per_second']:.0f}",
        f"{step['pictures_per_second']:.1f}",
        f"{step['queued']['p50']:.0f}",
        f"{step['queued']['max']:.0f}",
        *(f"{step[kind]['p50']:.0f} ({step[kind]['p99']:.0f})" for kind in kinds),
        *(f"{cpu[f'{name}_cores']:.2f}" for name in ("server", "worker", "generator", "others")),
    )


def _highest(part: Mapping[str, Any]) -> str:
    highest = part["highest_polls_per_second"]
    return "none of them" if highest is None else f"{highest:.0f}, the clients' own not counted"


def _memory(part: Mapping[str, Any]) -> str:
    setting, asked = part["setting"], sum(part["done_count"].values())
    counts = ", ".join(f"{name} {count}" for name, count in part["done_count"].items())
    return (
        "## Memory\n\n"
        + _run(part)
        + prose(
            f"{setting['minutes']:g} minutes of a moderate mix, {asked} calls: {counts}; "
            f"{part['left_out_count']} were left out because too many of their kind were on their "
            "way. Predictions beyond some 300 are deleted, uploads stay. Fixed before measuring: "
            "flat is a slope over the last two thirds (Theil-Sen) of surely less than "
            f"{setting['most_slope_mb_per_10_minutes']:g} MB in 10 minutes (upper end of the 95 % "
            "interval, bootstrap of blocks), and at the end less than "
            f"{setting['most_growth_percent']:g} % more than after {setting['warm_up_minutes']:g} "
            f"minutes. {_busy(part['cpu'])}"
        )
        + table(
            (
                "process",
                "after warm-up",
                "at the end",
                "growth",
                "MB in 10 minutes",
                "most",
                "flat",
            ),
            (_judged(name, found) for name, found in part["processes"].items()),
        )
        + table(
            _LOOKS,
            (_look(look) for look in part["looks"]),
        )
        + _failures([part])
    )


def _judged(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = found["slope_interval_mb_per_10_minutes"]
    return (
        name,
        f"{found['after_warm_up_mb']:.1f} MB",
        f"{found['at_the_end_mb']:.1f} MB",
        f"{found['growth_mb']:+.2f} MB, {found['growth_percent']:+.1f} %",
        f"{found['slope_mb_per_10_minutes']:+.2f} [{low:+.2f}, {high:+.2f}]",
        f"{found['most_mb']:.1f} MB",
        "yes" if found["flat"] else "**no**",
    )


def _look(look: Mapping[str, float]) -> tuple[str, ...]:
    cells = [f"{look['minute']:.1f}"]
    for name in ("server", "worker"):
        cells += [f"{look[f'{name}_{part}']:.1f}" for part in ("mb", "own_mb")]
        cells += [f"{look[f'{name}_{part}']:.0f}" for part in ("files", "threads")]
    return (*cells, f"{look['folder_mb']:.1f}")


def _failures(parts: Iterable[Mapping[str, Any]]) -> str:
    found = [failure for part in parts for failure in part["failures"]]
    if not found:
        return ""
    return "What failed:\n\n" + listed(f"{one['count']} times {one['what']}" for one in found)


def _row(what: str, figures: Mapping[str, float]) -> tuple[str, ...]:
    return (what, *_figures(figures, _QUANTILES), str(figures["count"]))


def _figures(figures: Mapping[str, float], names: Iterable[str]) -> list[str]:
    return [f"{figures[name]:.1f}" for name in names]
