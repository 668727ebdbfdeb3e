"""Where compiled blocks are kept: a folder for each machine and kind, the user's own first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from depthflux.engine import compile_cache
from depthflux.engine.compile_cache import compile_cache_name, use_compile_cache
from depthflux.model.placement import Placement
from depthflux.settings import EngineSettings

CPU = Placement(torch.device("cpu"), torch.float32, "as set")
VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@pytest.fixture(autouse=True)
def _variables_as_on_a_new_machine(tmp_path: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.setenv(variable, "to be restored")
            patch.delenv(variable)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        patch.setattr(compile_cache, "_ours", {})
        yield


def settings(**values: object) -> EngineSettings:
    return EngineSettings(model="demo", compile=True, **values)


def test_inductor_and_triton_keep_their_work_in_the_cache_folder(tmp_path: Path) -> None:
    folder = use_compile_cache(settings(), CPU)

    base = tmp_path / "depthflux" / "compile" / compile_cache_name(settings(), CPU)
    assert folder == base / "inductor"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(base / "inductor")
    assert os.environ["TRITON_CACHE_DIR"] == str(base / "triton")


def test_torch_looks_there(tmp_path: Path) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir, triton_cache_dir

    folder = use_compile_cache(settings(), CPU)

    assert cache_dir() == str(folder)
    assert triton_cache_dir(0).startswith(str(tmp_path))


def test_a_folder_that_the_user_has_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))

    assert use_compile_cache(settings(), CPU) == tmp_path / "mine"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "mine")
    assert "depthflux" in os.environ["TRITON_CACHE_DIR"]


def test_the_default_that_torch_writes_into_the_variable_is_not_the_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())

    folder = use_compile_cache(settings(), CPU)

    assert "depthflux" in str(folder)


def test_a_second_engine_of_another_kind_has_a_folder_of_its_own() -> None:
    first = use_compile_cache(settings(), CPU)
    second = use_compile_cache(settings(dtype="bfloat16"), CPU)

    assert first != second
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(second)


@pytest.mark.parametrize(
    "other", [{"dtype": "bfloat16"}, {"order": "diffusers"}, {"quantize": "int8"}], ids=str
)
def test_settings_that_change_the_code_change_the_folder(other: dict[str, str]) -> None:
    assert compile_cache_name(settings(**other), CPU) != compile_cache_name(settings(), CPU)


def test_settings_that_do_not_change_the_code_share_a_folder() -> None:
    other = settings(max_batch=4, skip_steps=0.5, remember="none")

    assert compile_cache_name(other, CPU) == compile_cache_name(settings(), CPU)


def test_the_name_says_torch_and_processor_and_is_a_plain_file_name() -> None:
    name = compile_cache_name(settings(), CPU)

    assert f"torch-{torch.__version__}" in name
    assert torch.backends.cpu.get_cpu_capability() in name
    assert "/" not in name
    assert " " not in name
    assert len(name) < 200


def test_without_a_home_a_folder_of_this_process_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cache, "cache_folder", lambda: None)

    folder = use_compile_cache(settings(), CPU)

    assert folder != Path(default_cache_dir())
    assert folder.parent.parent.stat().st_mode & 0o777 == 0o700
    assert os.environ["TRITON_CACHE_DIR"] == str(folder.with_name("triton"))
