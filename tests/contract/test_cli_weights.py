"""`depthflux weights list | pull | verify`, against a server that speaks the Hub's protocol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from hub_server import Hub, running_hub, sha256

from depthflux.cli.bytes_progress import BytesProgress, in_words
from depthflux.cli.progress import LINE_INTERVAL_S
from depthflux.model.catalogue import (
    CATALOGUE,
    CLIP_TOKENIZER,
    CONTROL_LORA,
    DEPTH_BASE,
    DEPTH_SMALL,
    FLUX,
    T5_TOKENIZER,
)
from depthflux.model.hashes import HashCache

Call = Callable[..., Result]

VOCABULARY = b"a vocabulary " * 100
CLIP_FILES = {
    "tokenizer_config.json": b"{}",
    "vocab.json": VOCABULARY,
    "merges.txt": b"#version: 0.2",
    "pytorch_model.bin": b"a pickle",
}
T5_FILES = {"tokenizer_config.json": b"{}", "spiece.model": b"pieces"}
TOKENIZERS = {
    "tokenizers/clip-vit-large-patch14/merges.txt",
    "tokenizers/clip-vit-large-patch14/tokenizer_config.json",
    "tokenizers/clip-vit-large-patch14/vocab.json",
    "tokenizers/t5-v1_1-xxl/spiece.model",
    "tokenizers/t5-v1_1-xxl/tokenizer_config.json",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with the tokenizers' repositories, at the revisions that the catalogue names."""
    with running_hub(monkeypatch, tmp_path) as running:
        running.add(CLIP_TOKENIZER.repository, dict(CLIP_FILES), commit=CLIP_TOKENIZER.revision)
        running.add(T5_TOKENIZER.repository, dict(T5_FILES), commit=T5_TOKENIZER.revision)
        yield running


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights folder that the environment names; nothing is in it."""
    monkeypatch.setenv("DEPTHFLUX_WEIGHTS_DIR", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def pulled(hub: Hub, weights: Path, cli: Call) -> Path:
    """The weights folder with the tokenizers pulled into it."""
    result = cli("weights", "pull", "--only", "tokenizers")
    assert result.exit_code == 0, result.stderr
    return weights


def serve_flux(hub: Hub, token: str | None = None) -> None:
    """FLUX.1-dev as small files, with what must not be fetched besides."""
    files = {file.pattern.replace("*", "model-1-of-1"): b"{}" for file in FLUX.files}
    files |= {"flux1-dev.safetensors": b"x", "ae.safetensors": b"x"}
    hub.add(FLUX.repository, files, commit=FLUX.revision, token=token)


def files_in(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found} - {"pins.json", ".pull.lock"}


def states(result: Result) -> dict[str, str]:
    return {file["path"]: file["state"] for file in json.loads(result.stdout)["files"]}


def test_list_names_every_entry_its_licence_and_that_nothing_is_there(
    weights: Path, cli: Call
) -> None:
    result = cli("weights", "list")

    assert result.exit_code == 0, result.stderr
    for entry in CATALOGUE:
        assert entry.name in result.stdout
        assert entry.repository in result.stdout
        assert entry.licence in result.stdout
    assert result.stdout.count("not there") == len(CATALOGUE)
    assert not weights.exists()


def test_list_as_json_says_what_is_known_and_null_for_what_is_not(weights: Path, cli: Call) -> None:
    entries = json.loads(cli("weights", "list", "--json").stdout)["entries"]

    lora = next(entry for entry in entries if entry["name"] == "control-lora")
    assert lora["bytes"] == CONTROL_LORA.bytes
    assert lora["revision"] is None
    assert (lora["gated"], lora["commercial"], lora["there"]) == (True, False, "no")
    assert lora["folder"] == str(weights / CONTROL_LORA.folder)
    base = next(entry for entry in entries if entry["name"] == "depth-base")
    assert (base["bytes"], base["revision"]) == (None, DEPTH_BASE.revision)


def test_list_says_what_is_partly_there_and_what_is_pinned(pulled: Path, cli: Call) -> None:
    (pulled / DEPTH_BASE.folder).mkdir()
    (pulled / DEPTH_BASE.folder / "config.json").write_text("{}")

    entries = json.loads(cli("weights", "list", "--json").stdout)["entries"]

    there = {entry["repository"]: entry for entry in entries if entry["there"] != "no"}
    assert set(there) == {entry.repository for entry in (DEPTH_BASE, CLIP_TOKENIZER, T5_TOKENIZER)}
    base, clip = there[DEPTH_BASE.repository], there[CLIP_TOKENIZER.repository]
    assert (base["there"], base["unpinned"]) == ("partly", ["config.json"])
    assert base["missing"] == ["preprocessor_config.json", "model.safetensors"]
    assert (clip["there"], clip["unpinned"]) == ("yes", [])
    title, *rows = cli("weights", "list").stdout.splitlines()
    assert title == f"in {pulled}"
    assert [row.split()[-2:] for row in rows if "partly" in row] == [["partly", "no"]]
    assert [row.split()[-2:] for row in rows if "tokenizer," in row] == [
        ["clip-vit-large-patch14", "yes"],
        ["t5-v1_1-xxl", "yes"],
    ]


def test_pull_fetches_what_is_named_and_prints_a_line_a_file(
    hub: Hub, weights: Path, cli: Call
) -> None:
    result = cli("weights", "pull", "tokenizers")

    assert result.exit_code == 0, result.stderr
    assert files_in(weights) == TOKENIZERS
    assert {line.split()[1].rstrip(":") for line in result.stdout.splitlines()} == TOKENIZERS
    assert all(line.startswith("fetched ") for line in result.stdout.splitlines())


def test_a_second_pull_says_that_all_is_there(pulled: Path, hub: Hub, cli: Call) -> None:
    hub.requests.clear()

    result = cli("weights", "pull", "--only", "tokenizers", "--json")

    files = json.loads(result.stdout)["files"]
    assert {file["path"]: file["fetched"] for file in files} == dict.fromkeys(TOKENIZERS, False)
    assert next(f for f in files if f["path"].endswith("vocab.json"))["sha256"] == sha256(
        VOCABULARY
    )
    assert hub.fetched() == []


def test_pull_fetches_flux_as_a_folder_without_the_single_files(
    hub: Hub, weights: Path, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_flux(hub, token="let-me-in")
    monkeypatch.setenv("HF_TOKEN", "let-me-in")

    result = cli("weights", "pull", "flux")

    assert result.exit_code == 0, result.stderr
    wanted = {f"{FLUX.folder}/{f.pattern.replace('*', 'model-1-of-1')}" for f in FLUX.files}
    assert files_in(weights) == wanted


def test_pull_tells_each_licence_that_forbids_commercial_use_once(
    hub: Hub, weights: Path, cli: Call
) -> None:
    result = cli("weights", "pull", "flux", "control-lora", "depth-base", "depth-small")

    told = [line for line in result.stderr.splitlines() if "no commercial use" in line]
    assert told == [
        f"{FLUX.repository}, {CONTROL_LORA.repository}: {FLUX.licence}, no commercial use.",
        f"{DEPTH_BASE.repository}: {DEPTH_BASE.licence}, no commercial use.",
    ]


def test_pull_without_an_accepted_licence_exits_with_3_and_says_where_to_accept_it(
    hub: Hub, weights: Path, cli: Call
) -> None:
    serve_flux(hub, token="let-me-in")

    result = cli("weights", "pull", "flux")

    assert result.exit_code == 3
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"error: {FLUX.repository} is given only to accounts")
    assert f"Accept it at {FLUX.page}, then sign in" in line
    assert files_in(weights) == set()


def test_pull_refuses_a_file_that_is_not_the_catalogue_s(
    hub: Hub, weights: Path, cli: Call
) -> None:
    files = {file.pattern: b"not that one" for file in DEPTH_SMALL.files}
    hub.add(DEPTH_SMALL.repository, files, commit=DEPTH_SMALL.revision)

    result = cli("weights", "pull", "depth-small")

    assert result.exit_code == 3
    for file in DEPTH_SMALL.files:
        told = f"{file.pattern} has 12 bytes on the Hub where the catalogue says {file.bytes}"
        assert told in result.stderr
    assert files_in(weights) == set()


def test_pull_without_a_network_says_what_to_copy_where(hub: Hub, weights: Path, cli: Call) -> None:
    hub.close()

    result = cli("weights", "pull")

    assert result.exit_code == 3
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert f"{hub.url} cannot be reached" in line
    for entry in (FLUX, CONTROL_LORA, DEPTH_SMALL):
        assert f"of {entry.page}" in line
        assert f"into {weights / entry.folder}" in line


@pytest.mark.parametrize("words", [("pull", "fluxx"), ("verify", "--only", "fluxx")])
def test_an_unknown_name_exits_with_2_and_the_nearest_one(
    words: tuple[str, ...], weights: Path, cli: Call
) -> None:
    result = cli("weights", *words)

    assert result.exit_code == 2
    assert result.stderr == "error: fluxx: there is no such entry; did you mean flux?\n"


def test_verify_prints_a_line_a_file(pulled: Path, cli: Call) -> None:
    result = cli("weights", "verify")

    assert result.exit_code == 0, result.stderr
    assert {line.split()[1].rstrip(":") for line in result.stdout.splitlines()} == TOKENIZERS
    assert all(line.startswith("ok ") for line in result.stdout.splitlines())
    assert "1.30 kB, as pins.json says" in result.stdout


def test_verify_exits_with_3_and_names_what_changed_and_what_is_gone(
    pulled: Path, cli: Call
) -> None:
    (pulled / CLIP_TOKENIZER.folder / "vocab.json").write_bytes(VOCABULARY[::-1])
    (pulled / T5_TOKENIZER.folder / "spiece.model").unlink()

    result = cli("weights", "verify", "--json")

    assert result.exit_code == 3
    changed = {path: state for path, state in states(result).items() if state != "ok"}
    assert changed == {
        "tokenizers/clip-vit-large-patch14/vocab.json": "wrong",
        "tokenizers/t5-v1_1-xxl/spiece.model": "missing",
    }
    assert all(path in result.stderr.splitlines()[-1] for path in changed)


def test_verify_looks_at_what_is_named_only(pulled: Path, cli: Call) -> None:
    result = cli("weights", "verify", "control-lora")

    assert result.exit_code == 3
    assert result.stdout.startswith("missing  FLUX.1-Depth-dev-lora/flux1-depth-dev-lora")
    assert "Run depthflux weights pull control-lora." in result.stderr


def test_verify_with_nothing_there_says_how_to_get_it(weights: Path, cli: Call) -> None:
    result = cli("weights", "verify")

    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: there are no weights in {weights}.")


def test_files_copied_by_hand_are_unpinned_until_they_are_recorded(pulled: Path, cli: Call) -> None:
    (pulled / "pins.json").unlink()

    before = cli("weights", "verify")
    pinning = cli("weights", "verify", "--pin")
    after = cli("weights", "verify")

    assert before.exit_code == pinning.exit_code == after.exit_code == 0
    assert all(line.startswith("unpinned ") for line in before.stdout.splitlines())
    assert "5 not pinned; to record what is there: depthflux weights verify --pin" in before.stderr
    assert pinning.stdout.count("pinned now") == after.stdout.count("as pins.json says") == 5
    assert pinning.stderr == after.stderr == ""


def test_fresh_reads_what_is_remembered_otherwise(pulled: Path, cli: Call) -> None:
    """A disk that loses bits changes no time of change: only reading the file again finds it."""
    cli("weights", "verify")
    file = pulled / CLIP_TOKENIZER.folder / "vocab.json"
    remembered = HashCache()
    digest = remembered.sha256(file)
    file.write_bytes(VOCABULARY[::-1])
    remembered.remember(file, digest)
    remembered.store()

    assert cli("weights", "verify").exit_code == 0
    assert cli("weights", "verify", "--fresh").exit_code == 3


def test_a_file_exchanged_under_its_old_time_is_found_without_fresh(
    pulled: Path, cli: Call
) -> None:
    cli("weights", "verify")
    file = pulled / CLIP_TOKENIZER.folder / "vocab.json"
    status = file.stat()
    file.write_bytes(VOCABULARY[::-1])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert cli("weights", "verify").exit_code == 3


def test_a_folder_can_be_named_on_the_command_line(
    hub: Hub, weights: Path, tmp_path: Path, cli: Call
) -> None:
    elsewhere = tmp_path / "elsewhere"

    result = cli("weights", "pull", "tokenizers", "--weights-dir", elsewhere)

    assert result.exit_code == 0, result.stderr
    assert files_in(elsewhere) == TOKENIZERS
    assert not weights.exists()


def test_ctrl_c_ends_the_process_with_130_and_the_next_pull_goes_on(
    hub: Hub, tmp_path: Path
) -> None:
    """The whole process, with no variables but those a person would set."""
    ours = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    variables = {**ours, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    words = ("-m", "depthflux", "weights", "pull", "tokenizers")
    hub.is_slow = True

    process = subprocess.Popen(
        [sys.executable, *words],
        env=variables,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts something in the background has it ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert hub.is_waited_for.wait(timeout=60)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    hub.is_slow = False
    again = subprocess.run(
        [sys.executable, *words], env=variables, cwd=tmp_path, capture_output=True, text=True
    )

    assert process.returncode == 130
    assert told.splitlines()[-1].startswith("error: cancelled. What was fetched is kept")
    assert again.returncode == 0, again.stderr
    assert files_in(tmp_path / "weights") == TOKENIZERS
    assert {line.split()[0] for line in again.stdout.splitlines()} == {"fetched", "there"}


def test_without_a_terminal_progress_is_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    with BytesProgress(clock=lambda: now[0]) as progress:
        for second in range(25):
            now[0] = float(second)
            progress.on_bytes("a/b.safetensors", second * 10**9, 30 * 10**9)

    assert LINE_INTERVAL_S == 10
    assert capsys.readouterr().err.splitlines() == [
        "a/b.safetensors: 10.00 GB of 30.00 GB",
        "a/b.safetensors: 20.00 GB of 30.00 GB",
    ]


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1300, "1.30 kB"), (99_173_660, "99.17 MB")],
)
def test_bytes_are_told_in_decimal_units(count: int, words: str) -> None:
    assert in_words(count) == words
