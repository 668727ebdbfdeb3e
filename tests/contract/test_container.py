"""Dockerfile.cuda and its lock file, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from depthflux.cli.root import COMMANDS
from depthflux.server.settings import ServerSettings, resolve_server_settings
from depthflux.settings import ENVIRONMENT_PREFIX, SERVER_PREFIX, resolve_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile.cuda"
LOCK = ROOT / "requirements" / "cuda.lock"
TOOLS = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: What builds the package; all of it is small and runs on any Python.
BUILD_TOOLS = {"hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}


def _instructions() -> list[tuple[str, str]]:
    """Name and text of each instruction, comments dropped, continued lines joined."""
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.lstrip().startswith("#"))
    whole = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in whole if line.strip()]


INSTRUCTIONS = _instructions()


def texts(name: str) -> list[str]:
    return [text for instruction, text in INSTRUCTIONS if instruction == name]


def environment() -> dict[str, str]:
    return dict(word.split("=", 1) for text in texts("ENV") for word in shlex.split(text))


def copies() -> list[tuple[list[str], str]]:
    """Sources and target of each COPY."""
    split = [shlex.split(text) for text in texts("COPY")]
    return [(words[:-1], words[-1]) for words in split]


def packages(lock: str) -> dict[str, tuple[str, set[str]]]:
    """Each package's version and sha256 sums in a lock file."""
    found = {}
    for line in re.sub(r"\s*\\\n\s*", " ", lock).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            pin, *hashes = line.split(" --hash=sha256:")
            name, version = pin.split("==")
            found[name] = (version, set(hashes))
    return found


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the build: the last pattern that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if _fits(path, pattern):
                ignored = pattern == line
    return ignored


def _fits(path: str, pattern: str) -> bool:
    """A pattern fits a path or any folder above it; `**/` stands for folders at any depth."""
    parts, wanted = path.split("/"), pattern.removeprefix("**/").split("/")
    starts = range(len(parts)) if pattern.startswith("**/") else range(1)
    return any(
        len(parts) - start >= len(wanted) and all(map(fnmatchcase, parts[start:], wanted))
        for start in starts
    )


def skip_without_network(run: subprocess.CompletedProcess[str]) -> None:
    if run.returncode and re.search("error sending request|No matching distribution", run.stderr):
        pytest.skip(f"no package index: {run.stderr.strip().splitlines()[-1]}")


def lint(dockerfile: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOOLS / "hadolint", "--no-color", "-"], input=dockerfile, capture_output=True, text=True
    )


def test_the_linter_finds_nothing() -> None:
    run = lint(DOCKERFILE.read_text(encoding="utf-8"))

    assert (run.returncode, run.stdout) == (0, "")


def test_the_linter_finds_what_is_wrong() -> None:
    run = lint("FROM ubuntu:latest\nRUN pip install torch\n")

    assert run.returncode == 1
    assert {"DL3007", "DL3013", "DL3042"} <= set(re.findall(r"DL\d+", run.stdout))


def test_all_that_is_copied_is_there_and_not_ignored() -> None:
    sources = [source for given, _ in copies() for source in given]

    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if is_ignored(source)] == []


def test_nothing_else_reaches_the_build() -> None:
    strangers = [
        ".git/HEAD", ".env", ".venv/bin/python", "build/x", "out/picture.png", "tests/conftest.py",
        "weights/FLUX.1-dev/model_index.json", "src/depthflux/__pycache__/files.pyc",
    ]  # fmt: skip

    assert [path for path in strangers if not is_ignored(path)] == []


def test_the_base_is_one_version_and_nothing_comes_from_elsewhere() -> None:
    (base,) = texts("FROM")

    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu24\.04(@sha256:[0-9a-f]{64})?", base)
    assert texts("ADD") == []
    assert [text for text in texts("RUN") if "://" in text] == []


def test_it_runs_as_a_user_that_is_not_root() -> None:
    """By number, and nothing is done as root once the user has changed."""
    (user,) = texts("USER")
    number, group = user.split(":")
    after = [name for name, _ in INSTRUCTIONS][INSTRUCTIONS.index(("USER", user)) :]

    assert int(number) > 1000
    assert any(f"useradd --uid {number} --gid {group} " in text for text in texts("RUN"))
    assert not {"RUN", "COPY"} & set(after)


def test_it_calls_commands_that_exist() -> None:
    (entry,), (default,) = map(json.loads, texts("ENTRYPOINT")), map(json.loads, texts("CMD"))

    assert entry == ["depthflux"]
    assert entry[0] in PROJECT["project"]["scripts"]
    assert default[0] in COMMANDS


def test_its_settings_are_settings_and_its_folders_are_volumes() -> None:
    variables = environment()
    settings = {name: v for name, v in variables.items() if name.startswith(ENVIRONMENT_PREFIX)}
    (volumes,) = map(json.loads, texts("VOLUME"))
    (made,) = (text for text in texts("RUN") if "mkdir" in text)

    values = resolve_settings("exact", environment=settings).values
    server = resolve_server_settings(environment=settings, arguments={})
    assert str(values.weights_dir) == "/weights"
    assert str(server.data_dir) == "/data"
    assert volumes == ["/cache", "/data", "/output"]
    assert made.endswith(f"mkdir --mode 1777 {' '.join(volumes)}")
    assert texts("WORKDIR") == ["/output"]
    homes = ("HOME", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    assert all(variables[name].startswith("/cache") for name in homes)


def test_it_holds_no_key_and_names_no_file_of_keys() -> None:
    """One that is named and not mounted would be refused, even where the environment has keys."""
    assert not {"DEPTHFLUX_API_KEYS", f"{SERVER_PREFIX}API_KEYS_FILE"} & set(environment())


def test_the_exposed_port_is_the_server_s() -> None:
    assert texts("EXPOSE") == [str(ServerSettings.model_fields["port"].default)]


def test_without_keys_the_default_command_ends_with_one_line_and_exit_code_3(
    tmp_path: Path,
) -> None:
    with _default_command(tmp_path, {}) as process:
        said, complaint = process.communicate(timeout=60)

    assert (process.returncode, said) == (3, "")
    assert len(complaint.splitlines()) == 1
    assert "host=0.0.0.0 lets other machines in, which needs API keys" in complaint
    assert complaint in (ROOT / "docs" / "container.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("source", ["environment", "file"])
def test_the_default_command_listens_is_healthy_and_ends_on_the_stop_signal(
    source: str, tmp_path: Path
) -> None:
    key, port = "a-key-of-these-tests", _free_port()
    (tmp_path / "keys").write_text(f"{key}\n")
    keys = {
        "environment": {"DEPTHFLUX_API_KEYS": key},
        "file": {f"{SERVER_PREFIX}API_KEYS_FILE": str(tmp_path / "keys")},
    }
    with _default_command(tmp_path, {**keys[source], f"{SERVER_PREFIX}PORT": str(port)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://0.0.0.0:{port}\n"
        assert _health(port) == 0
        process.send_signal(signal.Signals[texts("STOPSIGNAL")[0]])
        assert process.wait(60) == 0

    assert _health(port) != 0


@contextmanager
def _default_command(folder: Path, given: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """What the image runs, with the miniature and without waiting for it to load."""
    (words,) = map(json.loads, texts("CMD"))
    outside = {n: v for n, v in os.environ.items() if not n.startswith(ENVIRONMENT_PREFIX)}
    variables = {
        "DEPTHFLUX_PROFILE": "demo",
        f"{SERVER_PREFIX}DATA_DIR": str(folder / "data"),
        f"{SERVER_PREFIX}DRAIN_TIMEOUT_S": "0",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "depthflux", *words],
        env={**outside, **variables, **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _health(port: int) -> int:
    """The exit code of the health check, where the server listens on this port."""
    (check,) = texts("HEALTHCHECK")
    python, *words = json.loads(check.split(" CMD ", 1)[1])
    assert python == "python"
    # A proxy that answers nothing: the check must not ask one.
    variables = {f"{SERVER_PREFIX}PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    run = subprocess.run(
        [sys.executable, *words], env={**os.environ, **variables}, capture_output=True
    )
    return run.returncode


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def test_every_package_of_the_lock_has_sha256_sums_and_no_origin() -> None:
    text = LOCK.read_text(encoding="utf-8")
    locked = packages(text)

    assert len(locked) > 50
    assert all(
        hashes and all(re.fullmatch("[0-9a-f]{64}", one) for one in hashes)
        for _, hashes in locked.values()
    )
    assert not re.search(r"://|--(index|find|extra)|file:|^/", text, flags=re.MULTILINE)


def test_the_lock_holds_what_the_package_needs_to_be_built_and_to_run() -> None:
    locked = packages(LOCK.read_text(encoding="utf-8"))
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    target = {"python_version": "3.12", "sys_platform": "linux", "platform_machine": "x86_64"}

    requirements = [Requirement(line) for line in wanted]
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate(target)]
    missing = [
        str(one)
        for one in needed
        if not one.specifier.contains(locked.get(canonicalize_name(one.name), ("0",))[0])
    ]
    assert missing == [], "run scripts/lock"
    assert {"nvidia-cudnn-cu13", "triton"} <= set(locked), "torch as PyPI has it for CUDA 13"


def test_the_lock_resolves_again_to_the_same_versions_and_files(tmp_path: Path) -> None:
    """For the image's Python and system; sums of files that were added since may be new."""
    for path in ("pyproject.toml", "requirements/cuda.lock", "scripts/lock"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    variables = {
        "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
        "UV_CACHE_DIR": str(ROOT / "build" / "uv-cache"),
    }

    run = subprocess.run(
        [tmp_path / "scripts" / "lock"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )

    skip_without_network(run)
    assert run.returncode == 0, run.stderr
    again = packages((tmp_path / "requirements" / "cuda.lock").read_text(encoding="utf-8"))
    locked = packages(LOCK.read_text(encoding="utf-8"))
    assert {n: version for n, (version, _) in again.items()} == {
        n: version for n, (version, _) in locked.items()
    }, "run scripts/lock"
    assert [name for name, (_, hashes) in locked.items() if not hashes <= again[name][1]] == []


def test_the_pip_steps_pass_in_a_bare_environment(tmp_path: Path) -> None:
    """As in the image, but of the lock only what builds the package: the rest is gigabytes."""
    for sources, target in copies():
        for source in sources:
            _copy(ROOT / source, Path(f"{tmp_path}{target}"))
    lock = tmp_path / "opt" / "depthflux" / "requirements" / "cuda.lock"
    lock.write_text("".join(_entries(lock.read_text(encoding="utf-8"), BUILD_TOOLS)))
    venv.create(tmp_path / "opt" / "venv", with_pip=True)

    steps = [step for text in texts("RUN") for step in text.split(" && ")]
    installs = [step.strip() for step in steps if step.strip().startswith("pip install")]
    for step in installs:
        run = _in_image(tmp_path, step)
        skip_without_network(run)
        assert run.returncode == 0, f"{step}\n{run.stderr}"

    (installed,) = (tmp_path / "opt" / "venv" / "lib").glob("python*/site-packages/depthflux")
    package = ROOT / "src" / "depthflux"
    files = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    files = {path for path in files if "__pycache__" not in path.parts}
    beside = (path for name in ("configs", "examples") for path in (ROOT / name).rglob("*.*"))
    files |= {path.relative_to(ROOT) for path in beside}
    assert len(installs) == 2
    assert [str(path) for path in files if not (installed / path).is_file()] == []
    version = _in_image(tmp_path, "python -c 'import depthflux; print(depthflux.__file__)'")
    assert version.stdout.strip() == str(installed / "__init__.py")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        return
    target.mkdir(exist_ok=True)
    shutil.copy(source, target)


def _entries(lock: str, names: set[str]) -> list[str]:
    """The entries of some packages with their sums, as they stand in the lock."""
    entries = re.findall(r"^[\w.-]+==.*(?:\n .*)*\n", lock, flags=re.MULTILINE)
    return [entry for entry in entries if entry.split("==")[0] in names]


def _in_image(root: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as if `root` were the image's root folder."""
    search = f"{root}/opt/venv/bin{os.pathsep}{os.environ['PATH']}"
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        ["sh", "-c", command.replace("/opt/", f"{root}/opt/")],
        env={**outside, "PATH": search, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        cwd=root,
        capture_output=True,
        text=True,
    )
