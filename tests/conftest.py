"""What all tests share: untrained miniatures, the packaged demo engine, pictures.

The untrained miniatures are seeded pipelines of FLUX's own classes, a few hundred kilobytes each,
written by the builder that makes the demo model. With an 8x VAE they have FLUX's geometry.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Nothing in the tests may reach a model hub; set before any library reads it.
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    # The reference is bit-equal for any one number of threads; one keeps two cores for two jobs.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Variables of the developer's shell must not decide what a test sees.
    for name in [name for name in os.environ if name.startswith("DEPTHFLUX_")]:
        del os.environ[name]
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch sees none"))


@pytest.fixture(autouse=True)
def _no_cuda_but_where_it_is_meant(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with a GPU, too, only tests with the mark see it."""
    if request.node.get_closest_marker("gpu"):
        return
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for processes that a test starts
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(autouse=True)
def _alone_where_it_is_meant(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test with the mark waits for the others' to end, which wait for its own.

    Nothing waits where all tests run in one process.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        yield
        return
    is_alone = request.node.get_closest_marker("alone") is not None
    lock = Path(tempfile.gettempdir()) / f"depthflux-tests-{run}"
    with lock.with_suffix(".turn").open("w") as turn, lock.with_suffix(".lock").open("w") as held:
        # Who waits to be alone keeps the turn, or the others would go on taking the lock for ever.
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(held, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered between runs must not hide what a test would see on a new machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def miniature_8x(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained miniature with FLUX's geometry: 8x VAE, 16-pixel grid."""
    from train_demo.architecture import write_untrained

    return write_untrained(tmp_path_factory.mktemp("miniature") / "8x", vae_scale_factor=8)


@pytest.fixture(scope="session")
def miniature_16x(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained miniature with a 16x VAE: 32-pixel grid."""
    from train_demo.architecture import write_untrained

    return write_untrained(tmp_path_factory.mktemp("miniature") / "16x", vae_scale_factor=16)


@pytest.fixture(scope="session")
def engine_8x(miniature_8x: Path) -> Iterator[object]:
    """The reference profile on the untrained 8x miniature."""
    import depthflux

    return depthflux.load("reference", model=str(miniature_8x))


@pytest.fixture(scope="session")
def demo_engine() -> object:
    """The packaged miniature in its own profile."""
    import depthflux

    return depthflux.load("demo")


@pytest.fixture(scope="session")
def room() -> Image.Image:
    """A picture with flat parts, edges and a gradient, 320 x 240."""
    y, x = np.mgrid[0:240, 0:320].astype(np.float32)
    pixels = np.stack([x * 0.6, y * 0.9, 255 - x * 0.5], axis=-1)
    pixels[60:180, 90:200] = (230, 40, 30)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def depth_ramp() -> Image.Image:
    """A supplied depth map, grey, 512 x 512: near at the bottom, a near square in the middle."""
    depth = np.tile(np.linspace(0, 200, 512)[:, None], (1, 512))
    depth[180:330, 180:330] = 255
    return Image.fromarray(depth.astype(np.uint8))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    """In continuous integration nothing but a GPU may be missing: any other skip is a failure."""
    report = yield
    if not item.get_closest_marker("gpu") and not hasattr(report, "wasxfail"):
        _fail_where_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> object:
    """The same for a module that skips itself while it is imported."""
    report = yield
    _fail_where_skipped(report)
    return report


def _fail_where_skipped(report: object) -> None:
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped although CI=true: {report.longrepr}"
