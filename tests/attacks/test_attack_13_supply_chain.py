"""Attack 13: what comes from elsewhere. All of it is named, bounded, compared and never run unseen.

What can be shown without a network; that the lock resolves again is tests/contract/test_container.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import source_code
from hub_server import running_hub
from packaging.requirements import Requirement
from PIL import Image

import depthflux
from depthflux import safety
from depthflux.model import catalogue
from depthflux.model.catalogue import Entry, WantedFile
from depthflux.model.download import pull
from depthflux.safety import SafetyChecker

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile.cuda").read_text(encoding="utf-8")
LOCK = (ROOT / "requirements" / "cuda.lock").read_text(encoding="utf-8")
#: What fetches code or weights, and says nothing of what it should be.
FETCHING = re.compile(
    r"(torch\.hub|.*load_state_dict_from_url|.*hf_hub_download|.*snapshot_download|urlopen|"
    r"urllib\.request\.url(open|retrieve)|requests\.\w+|.*get_kernel|pip\.main)"
)
TOY = Entry(
    name="toy",
    title="a toy",
    repository="someone/toy",
    folder="Toy",
    files=(WantedFile("model.safetensors"),),
    licence="MIT",
    commercial=True,
)


def locked() -> dict[str, str]:
    """Each package of the lock, and what stands behind it."""
    lines = re.sub(r"\s*\\\n\s*", " ", LOCK).splitlines()
    pins = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in pins}


def test_every_package_of_the_lock_is_one_version_with_its_sums() -> None:
    for pin, rest in locked().items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][\w.+!]*", pin), pin
        assert re.fullmatch(r"(--hash=sha256:[0-9a-f]{64} ?)+", rest.split(" #")[0]), pin
    assert not re.search(r"^\s*(-e|--index|--extra-index|--find|git\+|https?:)", LOCK, re.MULTILINE)


def test_every_dependency_has_an_upper_bound() -> None:
    project = PROJECT["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    named = [name for group in groups for name in group]
    unbounded = [
        one.name
        for one in map(Requirement, named)
        if one.name != "depthflux"
        and not any(bound.operator in ("<", "<=", "==") for bound in one.specifier)
    ]

    assert unbounded == []
    assert [one for one in map(Requirement, named) if one.url] == []


def test_building_the_package_runs_no_code_of_it() -> None:
    hooks = PROJECT["tool"]["hatch"].get("build", {})

    assert PROJECT["build-system"]["build-backend"] == "hatchling.build"
    assert [
        name for name in ("setup.py", "setup.cfg", "hatch_build.py") if (ROOT / name).exists()
    ] == []
    assert "hooks" not in hooks
    assert [target for target in hooks["targets"].values() if "hooks" in target] == []


def test_the_container_takes_nothing_that_is_not_in_the_lock() -> None:
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    installs = re.findall(r"pip install[^&\n]*", text)

    assert installs
    for install in installs:
        assert "--require-hashes --only-binary :all:" in install or "--no-index" in install
    assert not re.search(r"\b(curl|wget|git clone|ADD|npm)\b", text)


def test_nothing_in_the_source_fetches_or_installs_code() -> None:
    fetching = [
        f"{place} {name}" for place, name, _ in source_code.calls() if FETCHING.fullmatch(name)
    ]
    installing = [
        str(path.relative_to(source_code.SOURCE))
        for path in source_code.SOURCE.rglob("*.py")
        if re.search(r"""["']pip["'],|git\+https""", path.read_text(encoding="utf-8"))
    ]

    assert fetching + installing == []


def test_weights_of_the_catalogue_come_from_a_commit_or_a_sum_that_is_known() -> None:
    entries = [one for one in vars(catalogue).values() if isinstance(one, Entry)]

    assert entries
    for entry in entries:
        assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision), entry.name


def test_weights_that_changed_on_their_way_are_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub lists one sum and gives other bytes of the same number."""
    told, given = b"\0" * 3000, b"\1" * 3000
    with running_hub(monkeypatch, tmp_path) as hub:
        repository = hub.add(TOY.repository, {"model.safetensors": given})
        repository.claims["model.safetensors"] = {
            "lfs": {"sha256": _sha256(told), "size": 3000, "pointerSize": 130}
        }

        with pytest.raises(depthflux.WeightsCorruptError, match="it was thrown away"):
            pull([TOY], tmp_path / "weights", on_bytes=lambda *_: None)

    assert [path for path in tmp_path.rglob("*model*") if path.is_file()] == []


def test_a_classifier_that_is_not_the_pinned_one_is_not_run(tmp_path: Path) -> None:
    """A package that was published anew under the same name and version."""
    distribution = importlib.metadata.distribution(safety.PACKAGE)
    other = tmp_path / "open-nsfw.onnx"
    content = bytearray(Path(str(distribution.locate_file(safety.WEIGHTS_PATH))).read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)

    with pytest.raises(depthflux.WeightsCorruptError):
        SafetyChecker(weights=other).scores([Image.new("RGB", (8, 8))])


def test_no_code_of_the_classifiers_package_is_run() -> None:
    assert [place for place, name in source_code.imports() if name.startswith("opennsfw")] == []


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
