"""`plan.json`: a run goes on as it was begun, or the error says what is another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from recording_fixtures import plan_of as make
from recording_fixtures import record, write_suite_file

from depthflux.bench.hosted.plan import ContestPlan
from depthflux.bench.hosted.plan_file import PlanFile, command_here, describe_plan, require_same
from depthflux.bench.hosted.planning import HOSTED_URL
from depthflux.bench.hosted.run_files import read_part
from depthflux.errors import InvalidParameterError

Plan = Callable[..., ContestPlan]


@pytest.fixture
def plan_of(tmp_path: Path) -> Plan:
    """Make a plan of two cases and the miniature, changed as a test says."""
    return partial(make, write_suite_file(tmp_path))


def differences(begun: ContestPlan, asked: ContestPlan) -> str:
    """What the error says of going on otherwise."""
    with pytest.raises(InvalidParameterError, match="this run was begun with other opt") as caught:
        require_same(Path("out"), describe_plan(begun), describe_plan(asked))
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix("out: this run was begun with other options: ")


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "repeat": ({"repeat": 2}, "--repeat was 1 and is 2 now;"),
    "concurrency": ({"concurrency": 2}, "--concurrency was 1 and is 2 now;"),
    "sync mode": ({"sync_mode": True}, "--sync-mode was False and is True now;"),
    "interval": ({"poll_interval_s": 1.0}, "--poll-interval was 0.5 and is 1.0 now;"),
    "address": (
        {"base_url": "https://a.example"},
        "--base-url was 'https://api.wavespeed.ai' and is 'https://a.example' now;",
    ),
    "version": ({"version": "v3"}, "--api-version was 'v2' and is 'v3' now;"),
    "first side": (
        {"against_profile": "reference"},
        "the first side was 'hosted' and is 'against' now;",
    ),
    "suite": ({"suite": "quick"}, "the suite's sha256 was '"),
    "profile": ({"profile": "reference"}, "--profile was 'demo' and is 'reference' now;"),
    "setting": (
        {"settings": {"threads": 3}},
        "threads of --profile was None and is 3 now; give the same",
    ),
    "setting of the environment": (
        {"environment": {"DEPTHFLUX_DTYPE": "bfloat16"}},
        "dtype of --profile was 'float32' and is 'bfloat16' now;",
    ),
    "path": (
        {"settings": {"weights_dir": "/elsewhere"}},
        "a path among the settings of --profile is another now;",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_is_not_gone_on_with_otherwise(name: str, plan_of: Plan) -> None:
    changed, told = CHANGES[name]

    message = differences(plan_of(), plan_of(**changed))

    assert message.startswith(told)
    assert "/elsewhere" not in message


def test_nor_with_another_first_profile_or_another_recording(plan_of: Plan, tmp_path: Path) -> None:
    first, second = (
        record(tmp_path / name, plan_of(repeat=repeat)).path
        for name, repeat in (("a", 1), ("b", 2))
    )
    against = plan_of(against_profile="reference")

    other = differences(against, plan_of(against_profile="exact"))
    set_otherwise = differences(
        against, plan_of(against_profile="reference", settings={"threads": 3})
    )
    replayed = differences(plan_of(replay=first), plan_of(replay=second, repeat=1))

    assert other.startswith("--against-profile was 'reference' and is 'exact' now;")
    assert "threads of --against-profile was None and is 3 now;" in set_otherwise
    assert replayed.startswith("the recording's sha256 was '")


@pytest.mark.parametrize(
    "changed",
    [
        {"price_usd": 0.03},
        {"price_usd": 0.03, "max_cost_usd": 5.0},
        {"electricity_usd": 0.3},
        {"watts": 300.0},
        {"estimator": Path("/")},
        {"clip": Path("/")},
        {"base_url": HOSTED_URL + "/"},
        {"poll_interval_s": 0.5},
    ],
    ids=str,
)
def test_what_only_counts_or_judges_may_be_another(changed: dict[str, Any], plan_of: Plan) -> None:
    begun, asked = describe_plan(plan_of()), describe_plan(plan_of(**changed))

    require_same(Path("out"), begun, asked)

    assert begun.local == asked.local


def test_a_plan_is_read_as_it_was_written_and_names_no_folder(
    plan_of: Plan, tmp_path: Path
) -> None:
    profile = tmp_path / "my profile.toml"
    profile.write_text('model = "demo"\ndevice = "cpu"\n', encoding="utf-8")
    plan = plan_of(profile=str(profile), settings={"weights_dir": str(tmp_path)})

    written = record(tmp_path / "run", plan).path

    assert read_part(written, "plan.json", PlanFile).local.name == "my profile.toml"
    assert str(tmp_path) not in (written / "plan.json").read_text()


def test_of_paths_a_command_keeps_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "bench hosted --suite /home/me/my.toml --out=../a/run --base-url http://127.0.0.1:9/x"
    more = "--set model=/srv/flux --set device=cpu --replay run/ --clip ./clip"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/depthflux", *words.split(), *more.split()])

    assert command_here() == (
        "depthflux bench hosted --suite my.toml --out=run --base-url http://127.0.0.1:9/x "
        "--set model=flux --set device=cpu --replay run --clip clip"
    )
