"""Suites: what a file of cases may say, what is refused in one clear line, and what ships."""

from __future__ import annotations

import hashlib
import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from depthflux.bench.hosted.suites import (
    ALLOWED_FIELDS,
    HOSTED_FIELDS,
    MAX_SUITE_BYTES,
    OWN_FIELDS,
    REFUSED_FIELDS,
    Suite,
    load_suite,
    suite_names,
)
from depthflux.contract import GenerationRequest
from depthflux.errors import InvalidParameterError
from depthflux.settings import profile_names

ROOT = Path(__file__).parents[4]

CASE = """
[[case]]
name = "a-cube"
control_image = "cube.png"
prompt = "a red cube"
seed = 7
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a suite's file beside a small picture."""
    Image.new("RGB", (32, 24), "red").save(tmp_path / "cube.png")

    def write_suite(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_suite


def refusal(path: Path | str) -> str:
    """The one line that a suite is refused with."""
    with pytest.raises(InvalidParameterError) as caught:
        load_suite(path)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_a_case_is_sent_with_all_hosted_fields_whatever_either_side_s_defaults_are(
    write: Write,
) -> None:
    (case,) = load_suite(write(CASE)).cases

    assert case.name == "a-cube"
    assert tuple(case.fields) == HOSTED_FIELDS
    assert case.fields["prompt"] == "a red cube"
    assert case.fields["seed"] == 7
    assert case.fields["num_inference_steps"] == 28
    assert case.fields["size"] == "864*1636"
    assert case.pictures == 1


def test_a_case_wins_over_the_suite_s_defaults(write: Write) -> None:
    defaults = '[defaults]\nsize = "512*512"\nguidance_scale = 9\nseed = 1\n'

    (case,) = load_suite(write(defaults + CASE)).cases

    assert case.fields["size"] == "512*512"
    assert case.fields["guidance_scale"] == 9.0
    assert case.fields["seed"] == 7


def test_depthflux_s_own_fields_are_sent_only_where_they_say_more_than_their_defaults(
    write: Write,
) -> None:
    usual = CASE + "preprocess_depth = true\ninvert_depth = false\n"
    supplied = CASE + "preprocess_depth = false\ninvert_depth = true\n"

    (plain,) = load_suite(write(usual)).cases
    (own,) = load_suite(write(supplied)).cases

    assert tuple(plain.fields) == HOSTED_FIELDS
    assert {name: own.fields[name] for name in OWN_FIELDS} == {
        "preprocess_depth": False,
        "invert_depth": True,
    }


def test_a_suite_is_called_after_its_file_and_says_what_it_is_for(write: Write) -> None:
    path = write('description = "Mine."\n' + CASE)

    suite = load_suite(path)

    assert (suite.name, suite.description, suite.path) == ("mine", "Mine.", path)


def test_the_sum_covers_the_file_and_every_picture_s_bytes(write: Write, tmp_path: Path) -> None:
    path = write(CASE)
    before = load_suite(path)

    Image.new("RGB", (32, 24), "blue").save(tmp_path / "cube.png")
    other_picture = load_suite(path)
    other_file = load_suite(write(CASE + "# a comment\n"))

    assert before.cases[0].control_sha256 != other_picture.cases[0].control_sha256
    assert len({before.sha256, other_picture.sha256, other_file.sha256}) == 3
    data = (tmp_path / "cube.png").read_bytes()
    assert other_file.cases[0].control_sha256 == hashlib.sha256(data).hexdigest()


def test_the_same_suite_elsewhere_has_the_same_sum(write: Write, tmp_path: Path) -> None:
    here = load_suite(write(CASE))
    shutil.copytree(tmp_path, tmp_path.parent / "elsewhere", dirs_exist_ok=True)

    there = load_suite(tmp_path.parent / "elsewhere" / "mine.toml")

    assert there.sha256 == here.sha256


def test_pictures_may_lie_above_the_suite(write: Write, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    path = tmp_path / "below" / "mine.toml"
    path.write_text(CASE.replace('"cube.png"', '"../cube.png"'), encoding="utf-8")

    assert load_suite(path).cases[0].control_image.resolve() == tmp_path / "cube.png"


@pytest.mark.parametrize(
    ("changed", "to", "told"),
    [
        pytest.param(
            "seed = 7", "seed = -1", "seed=-1 is refused: a drawn seed cannot be", id="drawn seed"
        ),
        pytest.param("seed = 7", "", "seed: is required: a drawn seed cannot be", id="no seed"),
        pytest.param(
            "seed = 7",
            "seed = 7\nguidance_scale = 31",
            "guidance_scale=31 is not allowed; allowed: a number from 1 to 30.",
            id="out of range",
        ),
        pytest.param(
            "seed = 7", 'seed = 7\nsize = "100*100"', "size='100*100' has width 100", id="size"
        ),
        pytest.param('prompt = "a red cube"', "", "prompt: is required", id="no prompt"),
        pytest.param(
            "seed = 7",
            "seed = 7\npromt = 1",
            "promt: there is no such field; did you mean prompt?",
            id="near miss",
        ),
        pytest.param(
            "seed = 7",
            'seed = 7\noutput_format = "png"',
            "output_format is refused: only depthflux heeds it",
            id="one side's field",
        ),
        pytest.param(
            "seed = 7",
            "seed = 7\nenable_sync_mode = true",
            "enable_sync_mode is refused: it is said for a whole run, with --sync-mode",
            id="the run's field",
        ),
        pytest.param(
            "cube.png", "nowhere.png", "nowhere.png': there is no such file", id="no picture"
        ),
        pytest.param(
            "cube.png", "mine.toml", "is text, no PNG, JPEG or WebP picture", id="no such kind"
        ),
        pytest.param("cube.png", "a\\u0000b", "control_image=", id="no path at all"),
        pytest.param('"cube.png"', "3", "control_image: 3 is no path", id="a number as picture"),
        pytest.param(
            'control_image = "cube.png"', "", "control_image: is required", id="picture not given"
        ),
        pytest.param(
            "cube.png",
            "https://example.com/a.png?token=secret",
            "control_image='https://example.com/a.png?…' is refused: a suite must be whole",
            id="address",
        ),
        pytest.param(
            "cube.png", "data:image/png;base64,AAAA", "is refused: a suite must be whole", id="data"
        ),
    ],
)
def test_a_case_is_refused_by_file_and_name(changed: str, to: str, told: str, write: Write) -> None:
    path = write(CASE.replace(changed, to))

    message = refusal(path)

    assert message.startswith(f"suite {path}: case a-cube: ")
    assert told in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "name", ["A", "a_b", "-a", "a-", "a--b", "a.b", "ä", "", "a b", "../a", "a" * 61, "a\\u202e"]
)
def test_a_name_that_could_be_no_folder_s_is_refused(name: str, write: Write) -> None:
    path = write(CASE.replace("a-cube", name))

    message = refusal(path)

    assert message.startswith(f"suite {path}: case 1: name=")
    assert "allowed: a-z, 0-9 and single hyphens" in message


def test_a_case_without_a_name_is_told_by_its_number(write: Write) -> None:
    path = write(CASE + CASE.replace('name = "a-cube"', ""))

    assert refusal(path).startswith(f"suite {path}: case 2: name: is required")


def test_all_cases_that_are_refused_are_told_at_once_up_to_a_few(write: Write) -> None:
    bad = CASE.replace("seed = 7", "seed = -1")
    text = "".join(bad.replace("a-cube", f"cube-{number}") for number in range(8))

    message = refusal(write(text))

    assert [f"case cube-{number}: " in message for number in range(8)] == [True] * 5 + [False] * 3
    assert "And 3 cases more are refused." in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("", "has no cases; begin each with [[case]].", id="empty"),
        pytest.param("[[case]\n", "is no valid TOML: ", id="no TOML"),
        pytest.param("a = " + "[" * 5000, "is no valid TOML: ", id="too deep"),
        pytest.param("cases = 1\n" + CASE, "did you mean case?", id="unknown key"),
        pytest.param("case = 1\n", "has a case that is no table", id="a number for cases"),
        pytest.param("case = [1]\n", "has a case that is no table", id="a number for a case"),
        pytest.param("description = 1\n" + CASE, "has description=1; allowed: a text", id="text"),
        pytest.param("defaults = 1\n" + CASE, "has defaults=1; write a table", id="no defaults"),
        pytest.param(
            '[defaults]\nname = "x"\n' + CASE,
            "[defaults]: name: there is no such",
            id="name of all",
        ),
        pytest.param(
            "[defaults]\nloras = []\n" + CASE, "[defaults]: loras is refused: only", id="loras"
        ),
        pytest.param(CASE + CASE, "has more than one case 'a-cube'", id="two of one name"),
    ],
)
def test_a_file_that_is_no_suite_is_refused(text: str, told: str, write: Write) -> None:
    path = write(text)

    message = refusal(path)

    assert message.startswith(f"suite {path}")
    assert told in message


def test_what_is_no_file_is_refused(tmp_path: Path, write: Write) -> None:
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "latin.toml").write_bytes(b'description = "\xe4"\n')
    (tmp_path / "huge.toml").write_bytes(b"#" * (MAX_SUITE_BYTES + 1))

    assert "cannot be read: No such file" in refusal(tmp_path / "none.toml")
    assert "cannot be read: " in refusal("a\0b.toml")
    assert "is no regular file" in refusal(tmp_path / "folder.toml")
    assert "is no regular file" in refusal(tmp_path / "pipe.toml")
    assert "is no valid TOML: " in refusal(tmp_path / "latin.toml")
    assert f"has more than {MAX_SUITE_BYTES} bytes" in refusal(tmp_path / "huge.toml")


def test_a_file_s_name_that_a_terminal_would_act_on_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "\x1b[2J.toml").write_text("", encoding="utf-8")

    message = refusal(tmp_path / "\x1b[2J.toml")

    assert "has no cases" in message


def test_an_unknown_suite_is_refused_with_the_nearest_one() -> None:
    message = refusal("standart")

    assert message.startswith("standart: there is no such suite; did you mean standard?")
    assert "by the path of its .toml file" in message


# What ships ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=suite_names())
def shipped(request: pytest.FixtureRequest) -> Suite:
    return load_suite(request.param)


def test_two_suites_ship_and_neither_is_taken_for_a_profile() -> None:
    assert suite_names() == ["quick", "standard"]
    assert not set(suite_names()) & set(profile_names())


def test_shipped_cases_are_requests_that_both_sides_take(shipped: Suite) -> None:
    for case in shipped.cases:
        request = GenerationRequest(**case.fields, control_image=case.control_image)
        assert request.seed >= 0


def test_no_two_shipped_cases_share_a_picture_a_prompt_or_a_seed(shipped: Suite) -> None:
    cases = shipped.cases

    for values in (
        [case.control_sha256 for case in cases],
        [case.fields["prompt"] for case in cases],
        [case.fields["seed"] for case in cases],
    ):
        assert len(set(values)) == len(cases)


def test_shipped_pictures_are_small_and_have_the_shape_of_what_is_asked_for(
    shipped: Suite,
) -> None:
    for case in shipped.cases:
        assert case.control_image.resolve().parent == ROOT / "examples"
        assert case.control_image.stat().st_size < 60_000
        with Image.open(case.control_image) as picture:
            width, height = picture.size
        asked = GenerationRequest(**case.fields).dimensions
        assert width / height == pytest.approx(asked.width / asked.height, rel=0.01), case.name


def test_the_quick_suite_is_small_and_says_that_it_shows_no_difference() -> None:
    suite = load_suite("quick")

    assert len(suite.cases) == 3
    assert "too few to show a difference" in suite.description


def test_the_standard_suite_has_every_kind_of_case() -> None:
    fields = [case.fields for case in load_suite("standard").cases]
    sizes = [GenerationRequest(**values).dimensions for values in fields]
    usual: dict[str, Any] = {"control_scale": 1.0, "guidance_scale": 3.5, "num_images": 1}

    assert len(fields) == 12
    assert any(size.width < size.height for size in sizes)
    assert any(size.width > size.height for size in sizes)
    assert any(size.width == size.height for size in sizes)
    assert [values["size"] for values in fields].count("864*1636") == 1
    for name, value in (usual | {"num_inference_steps": 28}).items():
        assert [values[name] == value for values in fields].count(False) == 1, name
    assert [values.get("preprocess_depth", True) for values in fields].count(False) == 1


def test_a_wheel_holds_the_suites_and_their_pictures_as_the_repository_does(
    tmp_path: Path,
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    forced = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in forced.items():
        shutil.copytree(ROOT / source, tmp_path / target)

    installed = load_suite(tmp_path / "depthflux" / "configs" / "suites" / "standard.toml")

    assert installed.sha256 == load_suite("standard").sha256
    sources = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert set(forced) <= set(sources)


def test_every_field_of_a_request_is_either_allowed_or_refused_with_a_reason() -> None:
    known = set(GenerationRequest.model_fields) - {"control_image"}

    assert set(ALLOWED_FIELDS) | set(REFUSED_FIELDS) == known
    assert not set(ALLOWED_FIELDS) & set(REFUSED_FIELDS)
