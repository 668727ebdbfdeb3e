"""Prompts on disk: whole or not there, private, bounded, and never in the way."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from depthflux.engine.prompt_store import PromptStore, StoredPrompt, prompt_folder


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def embedding(seed: int, dtype: torch.dtype = torch.float32) -> StoredPrompt:
    generator = torch.Generator().manual_seed(seed)
    return StoredPrompt(
        torch.randn(1, 12, 8, generator=generator).to(dtype),
        torch.randn(1, 6, generator=generator).to(dtype),
        read_characters=seed,
    )


def equal(a: StoredPrompt | None, b: StoredPrompt | None) -> bool:
    return (
        a is not None
        and b is not None
        and a.read_characters == b.read_characters
        and a.tokens.dtype == b.tokens.dtype
        and torch.equal(a.tokens, b.tokens)
        and torch.equal(a.pooled, b.pooled)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prompts"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_another_process_reads_the_very_bits_that_were_written(
    folder: Path, dtype: torch.dtype
) -> None:
    PromptStore(folder).write(key_of("a"), embedding(1, dtype))

    assert equal(PromptStore(folder).read(key_of("a")), embedding(1, dtype))
    assert PromptStore(folder).read(key_of("b")) is None


def test_only_the_owner_may_list_and_read(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    PromptStore(folder).write(key_of("a"), embedding(1))

    (file,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def flip_a_bit_of_the_numbers(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def change_the_cut(data: bytes) -> bytes:
    return data.replace(b'"read_characters":"1"', b'"read_characters":"2"')


def swap_the_dtype(data: bytes) -> bytes:
    return data.replace(b'"F32"', b'"I32"')


def lose_the_metadata(_data: bytes) -> bytes:
    return save({"tokens": embedding(1).tokens, "pooled": embedding(1).pooled})


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="truncated"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"\xff" * 64, id="no safetensors"),
        pytest.param(lambda _: (2).to_bytes(8, "little") + b"[]", id="another header"),
        pytest.param(lambda data: data + b"more", id="longer"),
        flip_a_bit_of_the_numbers,
        change_the_cut,
        swap_the_dtype,
        lose_the_metadata,
    ],
)
def test_a_damaged_or_foreign_file_is_passed_over_and_written_anew(
    folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    store = PromptStore(folder)
    store.write(key_of("a"), embedding(1))
    (file,) = folder.iterdir()
    before = file.read_bytes()
    file.write_bytes(damage(before))
    assert file.read_bytes() != before

    assert store.read(key_of("a")) is None

    store.write(key_of("a"), embedding(1))
    assert equal(store.read(key_of("a")), embedding(1))


def test_a_file_under_another_key_is_foreign(folder: Path) -> None:
    store = PromptStore(folder)
    store.write(key_of("a"), embedding(1))
    (file,) = folder.iterdir()

    file.rename(folder / f"{key_of('b')}.safetensors")

    assert store.read(key_of("b")) is None


def test_what_was_not_used_for_longest_goes_when_room_is_needed(folder: Path) -> None:
    PromptStore(folder).write(key_of("size"), embedding(1))
    (file,) = folder.iterdir()
    store = PromptStore(folder, most_bytes=2 * file.stat().st_size)
    file.unlink()
    for age, name in [(300, "a"), (200, "b")]:
        store.write(key_of(name), embedding(1))
        path = folder / f"{key_of(name)}.safetensors"
        status = path.stat()
        os.utime(path, (status.st_atime, status.st_mtime - age))

    assert store.read(key_of("a")) is not None
    store.write(key_of("c"), embedding(1))

    there = [name for name in "abc" if store.read(key_of(name)) is not None]
    assert there == ["a", "c"], "a was older, but used since"


def test_what_a_killed_process_left_goes_too(folder: Path) -> None:
    store = PromptStore(folder, most_bytes=10_000)
    store.write(key_of("a"), embedding(1))
    left = folder / f".{key_of('b')}.safetensors.0123456789abcdef"
    left.write_bytes(bytes(10_000))
    os.utime(left, (0, 0))

    store.write(key_of("c"), embedding(1))

    assert not left.exists()
    assert store.read(key_of("a")) is not None


def test_an_embedding_beyond_all_room_is_not_stored(folder: Path) -> None:
    store = PromptStore(folder, most_bytes=100)

    store.write(key_of("a"), embedding(1))

    assert not folder.exists()


@pytest.mark.parametrize("obstacle", ["a file in its place", "a folder in a file's place"])
def test_where_nothing_can_be_written_nothing_is_said(folder: Path, obstacle: str) -> None:
    if obstacle == "a file in its place":
        folder.write_text("not a folder")
    else:
        (folder / f"{key_of('a')}.safetensors").mkdir(parents=True)
    store = PromptStore(folder)

    store.write(key_of("a"), embedding(1))

    assert store.read(key_of("a")) is None


def test_a_full_disk_is_done_without_and_left_clean(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store = PromptStore(folder)

    store.write(key_of("a"), embedding(1))

    assert store.read(key_of("a")) is None
    assert list(folder.iterdir()) == []


def test_stores_that_share_a_folder_never_see_half_a_file(folder: Path) -> None:
    def write_and_read(worker: int) -> bool:
        # Small enough that each makes room for itself at the others' cost.
        store = PromptStore(folder, most_bytes=3_000)
        for _ in range(20):
            for name in range(4):
                store.write(key_of(str(name)), embedding(name))
                stored = store.read(key_of(str((name + worker) % 4)))
                if stored is not None and not equal(stored, embedding((name + worker) % 4)):
                    return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write_and_read, range(4)))

    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3_000


def test_prompts_lie_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")

    assert prompt_folder() == Path("/somewhere/depthflux/prompts")


def test_a_user_without_a_home_has_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)

    assert prompt_folder() is None
