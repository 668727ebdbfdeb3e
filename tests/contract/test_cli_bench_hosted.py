"""`depthflux bench hosted`: what is refused before anything is sent, and what it says of money.

Whole runs are in test_bench_hosted.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from unit.bench.report.sample import failed_document

from depthflux.bench.hosted.accounts import KEY_VARIABLE
from depthflux.bench.report.table import tables
from depthflux.cli.bench_hosted import ctrl_c_told, hosted, print_tables
from depthflux.cli.errors import OneLineError

Call = Callable[..., Result]

KEY = "wsk-0123456789abcdef"
#: Nobody listens there, and it is no one's but this machine's.
NOBODY = "http://127.0.0.1:9"

LIGHT = """
import sys
from depthflux.cli import main
for words in sys.argv[1:]:
    sys.argv = ["depthflux", "bench", "hosted", *words.split()]
    try:
        main()
    except SystemExit as stop:
        heavy = {"torch", "diffusers", "transformers", "scipy", "torchmetrics", "rich"}
        print(stop.code, sorted(heavy & set(sys.modules)), file=sys.__stdout__)
"""

TOLD = """
import sys
from pathlib import Path
import click
from depthflux.cli.bench_hosted import standard_output_told
@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def command(folder):
    with standard_output_told(folder):
        click.echo("a document" * 10_000)
command()
"""


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key in the environment that no one would take."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    return KEY


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the key of whoever runs the tests."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        pytest.param("--out {out}", 2, "suite: is required; give --suite", id="no suite"),
        pytest.param("--suite quick", 2, "Missing option '--out'", id="no folder"),
        pytest.param("--suite quik --out {out}", 2, "did you mean quick?", id="suite"),
        pytest.param("--suite no.toml --out {out}", 2, "suite no.toml cannot be read", id="file"),
        pytest.param("--suite quick --out {out} --repeat 0", 2, "repeat=0 is refused", id="range"),
        pytest.param("--suite quick --out {out} --repeat x", 2, "not a valid integer", id="type"),
        pytest.param(
            "--suite quick --out {out} --max-cost 1", 2, "only together with the price", id="limit"
        ),
        pytest.param(
            "--suite quick --out {out} --price-per-picture nan", 2, "=nan is refused", id="price"
        ),
        pytest.param(
            "--suite quick --out {out} --api-version v1", 2, "allowed: v2 or v3", id="version"
        ),
        pytest.param(
            "--suite quick --out {out} --replay {out}", 2, "is not there; allowed", id="replay"
        ),
        pytest.param(
            "--suite quick --out {out} --profile demoo", 3, "did you mean demo?", id="profile"
        ),
        pytest.param(
            "--suite quick --out {out} --set colour=red", 3, "no such setting", id="setting"
        ),
        pytest.param(
            "--suite quick --out {out} --against-profile demo --profile demo",
            2,
            "is the other side's profile, too",
            id="same profile",
        ),
        pytest.param(
            "--suite quick --out {out} --against-profile demo --profile exact --max-cost 1",
            2,
            "nothing is paid for there",
            id="limit on nothing",
        ),
        pytest.param(
            "--suite quick --out {out} --against-profile demo --profile exact --api-version v2",
            2,
            "the hosted endpoint is not asked",
            id="default that is said and not heeded",
        ),
        pytest.param(
            "--suite quick --out {out} --base-url http://8.8.8.8", 3, "unencrypted", id="clear"
        ),
        pytest.param(
            "--suite quick --out {out} --base-url https://a.example/api/v2",
            3,
            "end it before /api",
            id="address",
        ),
    ],
)
def test_what_makes_no_comparison_is_refused_and_leaves_no_folder(
    words: str, code: int, told: str, key: str, cli: Call, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    result = cli("bench", "hosted", *words.format(out=out).split())

    assert result.exit_code == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr
    assert result.stdout == ""
    assert not out.exists()


@pytest.mark.parametrize("option", ["--out", "--suite", "--replay", "--estimator", "--profile"])
def test_a_path_that_is_no_utf_8_is_refused_in_one_line(
    option: str, key: str, cli: Call, tmp_path: Path
) -> None:
    """It could stand neither in the report nor on the page."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    odd.mkdir()
    words = {"--suite": "quick", "--out": str(tmp_path / "out"), "--base-url": NOBODY}
    words[option] = str(odd)
    if option == "--replay":
        del words["--base-url"]

    result = cli("bench", "hosted", *(word for pair in words.items() for word in pair))

    assert result.exit_code == 2, result.stderr
    assert result.stderr == (
        f"error: {option.removeprefix('--')}: 'caf\\udce9' holds bytes that are no UTF-8; rename "
        "it, or name another.\n"
    )
    assert list(tmp_path.iterdir()) == [odd]
    assert list(odd.iterdir()) == []


def test_a_setting_that_is_no_utf_8_is_refused_in_one_line(
    key: str, cli: Call, tmp_path: Path
) -> None:
    odd = f"weights_dir={os.fsdecode(b'/caf' + bytes([0xE9]))}"

    result = cli("bench", "hosted", "--suite", "quick", "--out", tmp_path / "out", "--set", odd)

    assert result.exit_code == 2, result.stderr
    assert "weights_dir: 'caf\\udce9' holds bytes that are no UTF-8" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["full", "closed"])
def test_output_that_cannot_be_written_is_told_with_where_the_report_is(
    kind: str, tmp_path: Path
) -> None:
    near, far = os.pipe()
    os.close(near)
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(
            [sys.executable, "-c", TOLD, str(tmp_path)],
            stdout=full if kind == "full" else far,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    os.close(far)

    reason = "No space left on device" if kind == "full" else "Broken pipe"
    assert run.stderr == (
        f"error: cannot write to standard output: {reason}; the report is {tmp_path}/report.json.\n"
    )
    assert run.returncode == 2


def test_without_a_key_nothing_begins_and_the_variable_is_named(cli: Call, tmp_path: Path) -> None:
    result = cli("bench", "hosted", "--suite", "quick", "--out", tmp_path / "out")

    assert result.exit_code == 3
    assert f"{KEY_VARIABLE} is not set" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_key_that_is_none_is_refused_and_not_repeated(
    cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, f"{KEY}\n")

    result = cli("bench", "hosted", "--suite", "quick", "--out", tmp_path / "out")

    assert result.exit_code == 3
    assert KEY_VARIABLE in result.stderr
    assert KEY not in result.output


def test_there_is_no_option_for_the_key() -> None:
    words = {word for option in hosted.params for word in (*option.opts, *option.secondary_opts)}

    assert [word for word in words if "key" in word or "token" in word] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "--price-per-picture 0.03 --repeat 12",
            "36 pictures x 0.03 USD = 1.08 USD at 127.0.0.1:9\n",
        ),
        (
            "--price-per-picture 0.1 --max-cost 0.2",
            "3 pictures x 0.1 USD = 0.3 USD at 127.0.0.1:9, of which at most 0.2 USD are spent\n",
        ),
        ("", "3 pictures at 127.0.0.1:9; what they cost is not known: see --price-per-picture\n"),
        (
            "--resume",
            "3 pictures at 127.0.0.1:9; what they cost is not known: see --price-per-picture; "
            "what is done already is not paid again\n",
        ),
    ],
)
def test_what_it_will_cost_is_said_before_anything_else(
    words: str, told: str, key: str, cli: Call, tmp_path: Path
) -> None:
    """The folder holds something else, so each of them is refused right after."""
    (tmp_path / "diary.txt").write_text("mine", encoding="utf-8")
    words = f"--suite quick --profile demo --base-url {NOBODY} {words}"

    result = cli("bench", "hosted", *words.split(), "--out", tmp_path)

    assert result.exit_code == 2, result.stderr
    assert result.stderr.startswith(told)
    assert result.stderr.splitlines()[1].startswith("error: cannot use the folder")
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_a_folder_that_is_a_file_is_refused(key: str, cli: Call, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("", encoding="utf-8")

    result = cli("bench", "hosted", "--suite", "quick", "--out", tmp_path / "out")

    assert result.exit_code == 2
    assert "cannot write" in result.stderr


def test_going_on_with_nothing_is_refused_and_leaves_no_folder(
    key: str, cli: Call, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"

    result = cli(
        "bench", "hosted", "--suite", "quick", "--base-url", NOBODY, "--out", out, "--resume"
    )

    assert result.exit_code == 2
    assert "holds no run to go on with" in result.stderr
    assert not out.parent.exists()


def test_ctrl_c_is_told_with_what_is_kept_and_how_to_go_on(tmp_path: Path) -> None:
    told = r"kept in .*with --resume to go on\.$"
    with pytest.raises(OneLineError, match=told) as caught, ctrl_c_told(tmp_path):
        raise KeyboardInterrupt

    assert caught.value.exit_code == 130


def test_tables_show_others_words_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed task's error is the service's; in rich's markup it could paint or break."""
    document = failed_document("[bold]no[/bold] [/] :smile: [link=https://a.example]x[/link]")

    print_tables(document)

    shown = capsys.readouterr()
    assert shown.out == ""
    assert "[bold]no[/bold] [/] :smile: [link=https://a.example]x[/link]" in shown.err
    assert [made.title for made in tables(document) if made.title not in shown.err] == []
    assert [line for line in shown.err.splitlines() if line != line.rstrip()] == []


def test_refusals_and_the_help_import_nothing_heavy(tmp_path: Path) -> None:
    words = [
        "--help",
        f"--suite quick --out {tmp_path}/out",
        f"--suite quick --out {tmp_path}/out --repeat 0",
        f"--suite quick --out {tmp_path}/out --profile none",
    ]
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}

    run = subprocess.run(
        [sys.executable, "-c", LIGHT, *words],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )

    judged = [line for line in run.stdout.splitlines() if line.endswith("]") and line[0].isdigit()]
    assert judged == ["0 []", "3 []", "2 []", "3 []"]
