"""What a comparison may be, what is refused before anything is sent, and what is sent in order."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from depthflux.bench.hosted.plan import (
    HOSTED_URL,
    ContestPlan,
    fingerprint,
    make_plan,
    tasks_of,
)
from depthflux.contract import MAX_SEED
from depthflux.errors import InvalidParameterError, SettingsError

SUITE = """
[defaults]
size = "512*512"
[[case]]
name = "one"
control_image = "cube.png"
prompt = "a red cube"
seed = 7
[[case]]
name = "two"
control_image = "cube.png"
prompt = "a blue cube"
seed = 9_999_999_998
num_images = 2
"""

Plan = Callable[..., ContestPlan]


@pytest.fixture
def plan_of(tmp_path: Path) -> Plan:
    """Make a plan of two cases and the miniature, changed as a test says."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "cube.png")
    suite = tmp_path / "mine.toml"
    suite.write_text(SUITE, encoding="utf-8")

    def make(**changed: Any) -> ContestPlan:
        return make_plan(**{"suite": suite, "profile": "demo", **changed})

    return make


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
    plan_of: Plan, tmp_path: Path
) -> None:
    hosted, against = plan_of(), plan_of(against_profile="reference")
    replayed = plan_of(replay=tmp_path)

    assert (hosted.base_url, hosted.version) == (HOSTED_URL, "v2")
    assert [plan.first_side for plan in (hosted, against, replayed)] == [
        "hosted",
        "against",
        "replay",
    ]
    assert [plan.needs_key for plan in (hosted, against, replayed)] == [True, False, False]
    assert hosted.profiles == ("demo",)
    assert against.profiles == ("reference", "demo")


def test_an_open_profile_is_what_the_environment_says(plan_of: Plan) -> None:
    named = plan_of(profile=None, environment={"DEPTHFLUX_PROFILE": "reference"})
    opened = plan_of(profile=None)

    assert named.profile == "reference"
    assert named.effective["reference"]["order"] == "diffusers"
    assert opened.profile == "auto"


def test_settings_win_over_profiles_and_the_environment_over_defaults(plan_of: Plan) -> None:
    plan = plan_of(
        settings={"dtype": "bfloat16"},
        environment={"DEPTHFLUX_THREADS": "3", "DEPTHFLUX_DTYPE": "float32", "PATH": "/bin"},
    )

    assert plan.effective["demo"]["dtype"] == "bfloat16"
    assert plan.effective["demo"]["threads"] == 3
    assert plan.effective["demo"]["model"] == "demo"


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
            r"price_per_picture=0\.0 is refused; allowed: USD, more than 0",
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
            {"watts": 1e6}, r"watts=1000000\.0 is refused; allowed: watts, more than 0", id="watts"
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
            {"max_cost_usd": 1.0, "price_usd": 0.1, "against_profile": "exact"},
            r"max_cost and against_profile exclude each other: nothing is paid",
            id="limit on nothing",
        ),
        pytest.param(
            {"max_cost_usd": 1.0, "price_usd": 0.1, "replay": Path("/")},
            r"max_cost and replay exclude each other: nothing is paid",
            id="limit on replay",
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


CHANGES: dict[str, dict[str, Any]] = {
    "repeat": {"repeat": 2},
    "concurrency": {"concurrency": 2},
    "sync_mode": {"sync_mode": True},
    "poll_interval_s": {"poll_interval_s": 1.0},
    "base_url": {"base_url": "https://a.example"},
    "version": {"version": "v3"},
    "first side": {"against_profile": "reference"},
    "replay": {"replay": Path("/")},
    "suite": {"suite": "quick"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_what_the_first_side_is_sent_makes_another_fingerprint(
    name: str, plan_of: Plan
) -> None:
    assert fingerprint(plan_of(**CHANGES[name])) != fingerprint(plan_of())


@pytest.mark.parametrize(
    "changed",
    [
        {"price_usd": 0.03},
        {"price_usd": 0.03, "max_cost_usd": 5.0},
        {"electricity_usd": 0.3},
        {"watts": 300.0},
        {"estimator": Path("/")},
        {"clip": Path("/")},
        {"profile": "reference"},
        {"base_url": HOSTED_URL + "/"},
        {"poll_interval_s": 0.5},
    ],
    ids=str,
)
def test_what_only_counts_or_judges_makes_no_other_fingerprint(
    changed: dict[str, Any], plan_of: Plan
) -> None:
    assert fingerprint(plan_of(**changed)) == fingerprint(plan_of())


def test_a_local_first_side_s_settings_make_its_fingerprint(plan_of: Plan) -> None:
    before = fingerprint(plan_of(against_profile="reference"))

    assert fingerprint(plan_of(against_profile="exact")) != before
    assert fingerprint(plan_of(against_profile="reference", settings={"threads": 3})) != before


def test_planning_imports_no_torch() -> None:
    script = (
        "import sys; from depthflux.bench.hosted.plan import make_plan, tasks_of; "
        "tasks_of(make_plan(suite='standard', base_url='http://127.0.0.1:1')); "
        "print(sorted({'torch', 'scipy', 'torchmetrics', 'diffusers'} & set(sys.modules)))"
    )

    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert run.stdout.strip() == "[]"
