"""Stages that bring weights to the device and change them there: loading, preparing, control_scale.

Knows nothing of pictures.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import depthflux
from bench_gpu.bench import Bench, SkippedError
from bench_gpu.fingerprint import fingerprint
from bench_gpu.memory import PeakMemory
from bench_gpu.page_cache import resident_share
from depthflux.bench.clocks import now
from depthflux.engine import preparation
from depthflux.model.prepared import find_prepared, ingredients_of
from depthflux.model.weights import ModelFiles, find_model

#: Room that is left on the disk.
SPARE_BYTES = 10**9


def load(bench: Bench) -> dict[str, Any]:
    """Files → device: hashing them, which a start does once in their life, then loading.

    Whether the files were in memory before is told, since a warm start reads no disk.
    """
    files = find_model(bench.settings.values)
    paths = weight_files(files)
    share = resident_share(paths)
    with PeakMemory(bench.device) as hashing:
        start = now(bench.device)
        ingredients = ingredients_of(files, bench.placement, bench.settings.values.compat)
        hash_seconds = now(bench.device) - start
    prepared = find_prepared(bench.folder, ingredients)
    if prepared is not None:
        paths = [*weight_files(files, but="transformer"), *prepared.files]
    share_loading = resident_share(paths)
    with PeakMemory(bench.device) as loading:
        start = now(bench.device)
        bench.engine = depthflux.load("exact", **arguments(bench))
        load_seconds = now(bench.device) - start
    total = sum(path.stat().st_size for path in paths)
    return {
        "files_bytes": total,
        "prepared": prepared is not None,
        "hash_seconds": round(hash_seconds, 3),
        "hash_page_cache_share_before": share,
        "hash_host_peak_bytes": hashing.figures["host_peak_bytes"],
        "load_seconds": round(load_seconds, 3),
        "load_page_cache_share_before": share_loading,
        "load_gigabytes_per_second": round(total / load_seconds / 1e9, 3),
        **loading.figures,
        "settings": {
            name: value
            for name, value in bench.engine.settings.values.model_dump(mode="json").items()
            if name in ("device", "dtype", "compile", "compat", "master", "threads")
        },
        "weights_fingerprint": fingerprint(bench.engine.model.transformer),
    }


def arguments(bench: Bench) -> dict[str, Any]:
    """The settings that the arm gives, for `depthflux.load`."""
    values, sources = bench.settings.values, bench.settings.sources
    return {name: getattr(values, name) for name in sources if sources[name] == "argument"}


def weight_files(files: ModelFiles, *, but: str = "") -> list[Path]:
    """Every file of weights of a model, but for those of one component."""
    components = [component for name, component in files.components.items() if name != but]
    paths = [path for component in components for path in component.weight_files()]
    return [*paths, files.control_lora]


def prepare(bench: Bench, *, scale: float) -> dict[str, Any]:
    """What `depthflux weights prepare` does: load, fuse and save the transformer.

    Raises:
        SkippedError: the disk has no room for it.
    """
    files = find_model(bench.settings.values)
    needed = sum(path.stat().st_size for path in files.components["transformer"].weight_files())
    free = shutil.disk_usage(bench.folder).free
    if free < needed + SPARE_BYTES:
        raise SkippedError(f"{free / 1e9:.1f} GB of disk are free, and it takes {needed / 1e9:.1f}")
    with PeakMemory(bench.device) as memory:
        start = now(bench.device)
        prepared = preparation.prepare("exact", control_scale=scale, **arguments(bench))
        seconds = now(bench.device) - start
    return {
        "control_scale": prepared.control_scale,
        "files_bytes": sum(path.stat().st_size for path in prepared.files),
        "prepare_seconds": round(seconds, 3),
        **memory.figures,
    }


def control_scale(bench: Bench, *, scales: Sequence[float]) -> dict[str, Any]:
    """Changes of control_scale one after another; the first is the fuse after loading.

    Each with time, peak memory and a fingerprint of all weights afterwards.
    """
    model = bench.loaded.model
    changes = []
    for scale in scales:
        with PeakMemory(bench.device) as memory:
            start = now(bench.device)
            changed = model.control_lora.set_scale(scale)
            seconds = now(bench.device) - start
        changes.append(
            {
                "control_scale": scale,
                "seconds": round(seconds, 4),
                "linears_changed": changed,
                **memory.figures,
                "weights_fingerprint": fingerprint(model.transformer),
            }
        )
    return {"linears": len(model.control_lora.names), "changes": changes}
