"""What a comparison may be, what is refused before anything is sent, and what is sent in order."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from recording_fixtures import plan_of as make
from recording_fixtures import record, write_suite_file

from depthflux.bench.hosted.plan import ContestPlan, tasks_of
from depthflux.bench.hosted.planning import HOSTED_URL, needs_key
from depthflux.contract import MAX_SEED
from depthflux.errors import InvalidParameterError, SettingsError

Plan = Callable[..., ContestPlan]


@pytest.fixture
def plan_of(tmp_path: Path) -> Plan:
    """Make a plan of two cases and the miniature, changed as a test says."""
    return partial(make, write_suite_file(tmp_path))


@pytest.fixture
def recorded(plan_of: Plan, tmp_path: Path) -> Path:
    """The folder of an earlier run against the hosted endpoint."""
    return record(tmp_path / "recorded", plan_of()).path


def test_repetitions_follow_each_other_and_no_picture_is_asked_for_twice(plan_of: Plan) -> None:
    tasks = tasks_of(plan_of(repeat=3))

    assert [task.key for task in tasks] == ["one-0", "two-0", "one-1", "two-1", "one-2", "two-2"]
    assert [task.repeat for task in tasks] == [0, 0, 1, 1, 2, 2]
    assert [task.fields["seed"] for task in tasks if task.case.name == "one"] == [7, 8, 9]
    # The second of the two pictures has the last seed there is; then they begin anew.
    assert [task.fields["seed"] for task in tasks if task.case.name == "two"] == [
        MAX_SEED - 1,
        0,
        2,
    ]
    assert [task.pictures for task in tasks[:2]] == [1, 2]


def test_a_task_s_fields_are_its_own(plan_of: Plan) -> None:
    plan = plan_of(repeat=2)

    assert {key: value for key, value in tasks_of(plan)[2].fields.items() if key != "seed"} == {
        key: value for key, value in plan.suite.cases[0].fields.items() if key != "seed"
    }
    assert plan.suite.cases[0].fields["seed"] == 7


def test_the_hosted_endpoint_is_asked_unless_another_first_side_is_given(
    plan_of: Plan, recorded: Path
) -> None:
    hosted, against = plan_of(), plan_of(against_profile="reference")
    replayed = plan_of(replay=recorded)

    assert (hosted.base_url, hosted.version) == (HOSTED_URL, "v2")
    assert [plan.first_side for plan in (hosted, against, replayed)] == [
        "hosted",
        "against",
        "replay",
    ]
    assert [plan.first_name for plan in (hosted, against, replayed)] == [
        "hosted",
        "against",
        "hosted",
    ]
    assert hosted.profiles == ("demo",)
    assert against.profiles == ("reference", "demo")


def test_an_open_profile_is_what_the_environment_says(plan_of: Plan) -> None:
    named = plan_of(profile=None, environment={"DEPTHFLUX_PROFILE": "reference"})
    opened = plan_of(profile=None)

    assert named.profile == "reference"
    assert named.effective["reference"].order == "diffusers"
    assert opened.profile == "auto"


def test_settings_win_over_profiles_and_the_environment_over_defaults(plan_of: Plan) -> None:
    plan = plan_of(
        settings={"dtype": "bfloat16"},
        environment={"DEPTHFLUX_THREADS": "3", "DEPTHFLUX_DTYPE": "float32", "PATH": "/bin"},
    )

    assert plan.effective["demo"].dtype == "bfloat16"
    assert plan.effective["demo"].threads == 3
    assert plan.effective["demo"].model == "demo"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {"repeat": 0},
            r"repeat=0 is refused; allowed: a whole number from 1 to 100\.",
            id="no repetition",
        ),
        pytest.param({"repeat": 101}, r"repeat=101 is refused", id="too many repetitions"),
        pytest.param(
            {"concurrency": 33},
            r"concurrency=33 is refused; allowed: a whole number from 1 to 32\.",
            id="concurrency",
        ),
        pytest.param(
            {"poll_interval_s": 0.05},
            r"poll_interval=0\.05 is refused; allowed: seconds from 0\.1 to 60\.",
            id="too often",
        ),
        pytest.param(
            {"poll_interval_s": math.nan}, r"poll_interval=nan is refused", id="interval nan"
        ),
        pytest.param(
            {"price_usd": 0.0},
            r"price_per_picture=0\.0 is refused; allowed: USD, from 0\.000001 to 1000000",
            id="price",
        ),
        pytest.param(
            {"price_usd": math.inf}, r"price_per_picture=inf is refused", id="endless price"
        ),
        pytest.param({"price_usd": math.nan}, r"price_per_picture=nan is refused", id="price nan"),
        pytest.param(
            {"electricity_usd": -1.0}, r"electricity_per_kwh=-1\.0 is refused", id="electricity"
        ),
        pytest.param(
            {"watts": 1e6},
            r"watts=1000000\.0 is refused; allowed: watts, from 0\.000001 to 100000",
            id="watts",
        ),
        pytest.param(
            {"version": "v4"}, r"api_version='v4' is refused; allowed: v2 or v3\.", id="version"
        ),
        pytest.param(
            {"max_cost_usd": 1.0},
            r"max_cost=1\.0 is refused; allowed: only together with",
            id="limit without price",
        ),
        pytest.param(
            {"max_cost_usd": 0.02, "price_usd": 0.03},
            r"max_cost=0\.02 is refused; allowed: 0\.03 USD, what a task costs",
            id="limit below a task",
        ),
        pytest.param(
            {"price_usd": 0.0000009}, r"price_per_picture=9e-07 is refused", id="price of nothing"
        ),
        pytest.param(
            {"max_cost_usd": 1.0, "against_profile": "exact"},
            r"max_cost and against_profile exclude each other: nothing is paid",
            id="limit on nothing",
        ),
        pytest.param(
            {"version": "v2", "against_profile": "exact"},
            r"api_version and against_profile exclude each other: the hosted endpoint is not asked",
            id="version of nobody",
        ),
        pytest.param(
            {"price_usd": 0.1, "against_profile": "exact"},
            r"price_per_picture and against_profile exclude each other",
            id="price of nobody",
        ),
        pytest.param(
            {"base_url": "https://a.example", "replay": Path("/")},
            r"base_url and replay exclude each other",
            id="address of a recording",
        ),
        pytest.param(
            {"version": "v2", "replay": Path("/")},
            r"api_version and replay exclude each other",
            id="version of a recording",
        ),
        pytest.param(
            {"against_profile": "exact", "replay": Path("/")},
            r"replay and against_profile exclude each other",
            id="two first sides",
        ),
        pytest.param(
            {"against_profile": "exact", "base_url": "https://a.example"},
            r"base_url and against_profile exclude each other",
            id="address of nobody",
        ),
        pytest.param(
            {"against_profile": "demo"},
            r"against_profile='demo' is the other side's profile, too",
            id="same profile",
        ),
        pytest.param(
            {"replay": Path("/nowhere")},
            r"replay='/nowhere' is not there; allowed: the path of a folder\.",
            id="no replay",
        ),
        pytest.param(
            {"estimator": Path("/dev/null")}, r"estimator='/dev/null' is no folder", id="estimator"
        ),
        pytest.param({"clip": Path("/nowhere")}, r"clip='/nowhere' is not there", id="clip"),
        pytest.param(
            {"suite": "quik"}, r"quik: there is no such suite; did you mean quick\?", id="suite"
        ),
    ],
)
def test_what_makes_no_comparison_is_refused(
    changed: dict[str, Any], message: str, plan_of: Plan
) -> None:
    with pytest.raises(InvalidParameterError, match=message) as caught:
        plan_of(**changed)

    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param({"profile": "exactt"}, "exactt: there is no such profile", id="profile"),
        pytest.param({"against_profile": "demoo"}, "demoo: there is no such profile", id="against"),
        pytest.param({"settings": {"devicee": "cpu"}}, "devicee: there is no such", id="setting"),
        pytest.param(
            {"profile": None, "settings": {"device": "gpu"}}, "device='gpu'", id="open profile"
        ),
        pytest.param(
            {"against_profile": "fast", "settings": {"compile": False}},
            "quantize=auto with compile=false",
            id="combination on one side",
        ),
        pytest.param(
            {"base_url": "https://user:pw@a.example"}, "base_url=", id="password in the address"
        ),
        pytest.param({"base_url": "http://8.8.8.8"}, "unencrypted", id="key in the clear"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_started(
    changed: dict[str, Any], message: str, plan_of: Plan
) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        plan_of(**changed)

    assert "pw" not in str(caught.value)


def test_two_profiles_that_come_out_as_one_are_refused(plan_of: Plan, tmp_path: Path) -> None:
    twin = tmp_path / "twin.toml"
    twin.write_text('model = "demo"\ndevice = "cpu"\ncompile = true\n', encoding="utf-8")

    assert plan_of(against_profile=str(twin)).profiles == (str(twin), "demo")
    with pytest.raises(InvalidParameterError, match="come out as the same settings"):
        plan_of(against_profile=str(twin), settings={"compile": False})


def test_a_limit_of_exactly_one_task_is_allowed(plan_of: Plan) -> None:
    assert plan_of(max_cost_usd=0.03, price_usd=0.03).max_cost_usd == 0.03


def test_a_slash_at_the_end_makes_no_other_address(plan_of: Plan) -> None:
    assert plan_of(base_url="http://127.0.0.1:8000/").base_url == "http://127.0.0.1:8000"


def test_what_a_recording_cannot_heed_is_refused(
    plan_of: Plan, recorded: Path, tmp_path: Path
) -> None:
    local = record(tmp_path / "local", plan_of(against_profile="reference")).path

    with pytest.raises(InvalidParameterError, match="max_cost and replay exclude each other"):
        plan_of(replay=recorded, max_cost_usd=1.0, price_usd=0.1)
    with pytest.raises(InvalidParameterError, match="price_per_picture and replay exclude each"):
        plan_of(replay=local, price_usd=0.1)

    assert plan_of(replay=recorded, price_usd=0.1).price_usd == 0.1


def test_without_a_recording_a_suite_is_required(plan_of: Plan, recorded: Path) -> None:
    with pytest.raises(InvalidParameterError, match="suite: is required; give --suite"):
        plan_of(suite=None)

    assert plan_of(suite=None, replay=recorded).suite.name == "mine"


def test_a_key_is_needed_where_a_task_is_open(plan_of: Plan, tmp_path: Path) -> None:
    plan = plan_of()
    half = record(tmp_path / "half", plan, answered=1).path
    whole = record(tmp_path / "whole", plan, answered=2).path

    assert needs_key(plan, half, resume=True)
    assert not needs_key(plan, whole, resume=True)
    assert needs_key(plan, whole, resume=False)
    assert not needs_key(plan_of(replay=half), tmp_path / "new", resume=False)
    assert not needs_key(plan_of(against_profile="reference"), tmp_path / "new", resume=False)


def test_planning_imports_no_torch() -> None:
    script = (
        "import sys; from depthflux.bench.hosted.plan import tasks_of; "
        "from depthflux.bench.hosted.planning import make_plan; "
        "tasks_of(make_plan(suite='standard', base_url='http://127.0.0.1:1')); "
        "print(sorted({'torch', 'scipy', 'torchmetrics', 'diffusers'} & set(sys.modules)))"
    )

    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert run.stdout.strip() == "[]"
