"""`demo`, `depth`, `doctor`, `config show` and the progress lines."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image

import depthflux
from depthflux.cli.demo import NEXT_COMMAND, demo_source
from depthflux.cli.diagnosis import LIBRARIES, driver_gpus, read_gpu_line
from depthflux.cli.progress import LINE_INTERVAL_S, StepProgress
from depthflux.cli.sheet import BACKGROUND, LINE_HEIGHT, MARGIN, compose_sheet
from depthflux.settings import EngineSettings

Call = Callable[..., Result]


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def shown(cli: Call, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The demo, with few steps."""
    return cli("demo", "--steps", 2, "--num-images", 2, "--out", tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def mapped(cli: Call, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The depth map of the demo's picture, as JSON."""
    path = tmp_path_factory.mktemp("depth") / "deep" / "map.png"
    return cli("depth", demo_source(), "--out", path, "--profile", "demo", "--json"), path


def test_demo_writes_source_depth_map_and_pictures_on_one_sheet(
    shown: Result, mapped: tuple[Result, Path]
) -> None:
    assert shown.exit_code == 0, shown.stderr
    sheet = _pixels(Path(shown.stdout.strip()))
    panels = [
        sheet[MARGIN : MARGIN + 512, left : left + 512]
        for left in range(MARGIN, 4 * (512 + MARGIN), 512 + MARGIN)
    ]

    assert sheet.shape[1] == 4 * 512 + 5 * MARGIN
    assert np.array_equal(panels[0], _pixels(demo_source()))
    assert np.array_equal(panels[1], _pixels(mapped[1]))
    assert not np.array_equal(panels[2], panels[3])


def test_demo_says_that_it_is_no_flux_and_what_to_try_next(shown: Result) -> None:
    summary, disclaimer, following = shown.stderr.splitlines()

    assert summary.startswith("depthflux/demo: 2 pictures of 512*512 in ")
    assert "toy scenes only, no substitute for FLUX.1-dev" in disclaimer
    assert following == f"Next: {NEXT_COMMAND}"


def test_demo_runs_the_miniature_whatever_the_environment_names(
    cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_MODEL", "flux")
    monkeypatch.setenv("DEPTHFLUX_PROFILE", "exact")

    result = cli("demo", "--steps", 1, "--out", tmp_path)

    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("depthflux/demo: 1 picture of 512*512 in ")


def test_a_sheet_brings_pictures_to_one_height_and_cuts_long_captions() -> None:
    tall, wide = Image.new("L", (50, 100), 80), Image.new("RGB", (300, 200), (1, 2, 3))

    sheet = compose_sheet([(tall, "a caption much too long for it\ndog"), (wide, "short")])

    pixels = np.asarray(sheet)
    assert sheet.size == (100 + 300 + 3 * MARGIN, 200 + 3 * MARGIN + 2 * LINE_HEIGHT)
    assert (pixels[MARGIN : MARGIN + 200, MARGIN : MARGIN + 100] == 80).all()
    between = pixels[:, MARGIN + 100 : 2 * MARGIN + 100]
    assert (between == BACKGROUND).all()
    inked = (pixels[MARGIN + 200 :, MARGIN : MARGIN + 100] < 128).any(axis=(1, 2))
    bands = int((np.diff(inked.astype(int)) == 1).sum())
    assert bands == 2, "two lines of caption with white between them"


def test_depth_writes_a_grey_map_of_the_pictures_own_size(mapped: tuple[Result, Path]) -> None:
    result, path = mapped

    assert result.exit_code == 0, result.stderr
    with Image.open(path) as picture:
        assert (picture.mode, picture.size, picture.getextrema()) == ("L", (512, 512), (0, 255))
    document = json.loads(result.stdout)
    assert document["path"] == str(path)
    assert document["estimator"]["name"] == "depthflux-demo-depth"
    assert result.stderr == "estimated by depthflux-demo-depth (Apache-2.0), 512*512\n"


def test_depth_overwrites_with_force_and_takes_size_and_fit(
    mapped: tuple[Result, Path], cli: Call, tmp_path: Path
) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(b"older")
    words = ("--profile", "demo", "--size", "512*600", "--fit", "contain", "--force")

    result = cli("depth", "-", "--out", path, *words, given=demo_source().read_bytes())

    assert result.stdout == f"{path}\n"
    fitted = _pixels(path)
    assert fitted.shape == (600, 512, 3)
    assert np.array_equal(fitted[44:-44], _pixels(mapped[1]))
    assert (fitted[:44] == 0).all()


def test_doctor_reports_every_part_and_ends_in_a_command(cli: Call) -> None:
    result = cli("doctor")

    assert result.exit_code == 0, result.stdout
    for word in (
        *LIBRARIES,
        "demo transformer",
        "safety checker",
        "Non-Commercial",
        "profile auto",
    ):
        assert word in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Next: depthflux ")
    assert result.stderr == ""


def test_doctor_as_json_says_what_is_whole(
    cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "flux1-depth-dev-lora.safetensors").write_bytes(b"")

    document = json.loads(cli("doctor", "--json").stdout)

    assert document["demo_runs"] is True
    assert document["flux_runs"] is False
    assert document["versions"]["depthflux"] == depthflux.__version__
    checks = {check["name"]: check["ok"] for check in document["checks"]}
    assert checks["demo vae"] is True
    assert checks["flux"] is None
    assert checks["flux control LoRA"] is False, "it has no bytes"
    assert checks["flux depth estimator"] is None


@pytest.fixture
def flux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miniature_8x: Path) -> Path:
    """An untrained miniature where FLUX.1-dev is looked for, made of links."""
    folder = tmp_path / "FLUX.1-dev"
    for file in (path for path in miniature_8x.rglob("*") if path.is_file()):
        link = folder / file.relative_to(miniature_8x)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    monkeypatch.setenv("DEPTHFLUX_WEIGHTS_DIR", str(tmp_path))
    return folder


def test_doctor_names_a_damaged_part_of_flux(cli: Call, flux: Path) -> None:
    folder = flux
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()

    document = json.loads(cli("doctor", "--json").stdout)

    checks = {check["name"]: check for check in document["checks"]}
    assert checks["flux transformer"]["ok"] is True
    assert checks["flux vae"]["ok"] is False
    assert "vae/diffusion_pytorch_model.safetensors" in checks["flux vae"]["detail"]
    assert document["flux_runs"] is False


def test_doctor_says_which_rule_found_each_part_and_what_was_passed_over(
    cli: Call, flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    snapshot = tmp_path / "hub/models--black-forest-labs--FLUX.1-dev/snapshots/c1"
    snapshot.mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (flux / "vae").rename(snapshot / "vae")
    weights = snapshot / "vae" / "diffusion_pytorch_model.safetensors"
    rounded = {name: t.to(torch.float8_e4m3fn) for name, t in load_file(weights).items()}
    weights.unlink()
    save_file(rounded, weights)
    (flux / "vae").mkdir()
    (flux / "vae" / "config.json").touch()

    document = json.loads(cli("doctor", "--json").stdout)
    lines = cli("doctor").stdout.splitlines()

    checks = {check["name"]: check for check in document["checks"]}
    assert checks["flux"]["ok"] is True
    assert checks["flux transformer"]["rule"] == "folder"
    assert checks["flux transformer"]["path"] == str(flux / "transformer")
    assert checks["flux vae"]["rule"] == "cache"
    (line,) = (line for line in lines if line.strip().startswith("flux vae "))
    assert "stored in fp8 (F8_E4M3), so its numbers are rounded" in line
    assert f"rule cache (the Hugging Face cache): {snapshot}/vae" in line
    assert f"passed over: lacks {flux}/vae/diffusion_pytorch_model.safetensors" in line


def test_doctor_names_pickles_and_files_of_another_size_than_fluxs(
    cli: Call, flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "ComfyUI" / "models"
    (models / "unet").mkdir(parents=True)
    (models / "vae").mkdir()
    transformer = flux / "transformer" / "diffusion_pytorch_model.safetensors"
    shutil.copy(transformer, models / "unet" / "flux1-dev.safetensors")
    torch.save({"a": torch.zeros(1)}, models / "vae" / "ae.safetensors")
    shutil.rmtree(flux / "transformer")
    shutil.rmtree(flux / "vae")
    monkeypatch.setenv("DEPTHFLUX_COMFYUI_DIR", str(tmp_path / "ComfyUI"))

    document = json.loads(cli("doctor", "--json").stdout)

    checks = {check["name"]: check for check in document["checks"]}
    assert checks["flux"]["ok"] is False
    assert checks["flux"]["detail"] == "cannot be used: flux transformer, flux vae"
    assert "flux1-dev.safetensors does not fit FLUX.1-dev: " in checks["flux transformer"]["detail"]
    assert "ae.safetensors is no safetensors file but a zip" in checks["flux vae"]["detail"]
    assert document["flux_runs"] is False


def test_doctor_exits_with_3_where_not_even_the_demo_can_run(
    cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depthflux.safety.WEIGHTS_SHA256", "0" * 64)

    result = cli("doctor")

    assert result.exit_code == 3
    assert "safety checker        BAD" in result.stdout
    assert "pip install --force-reinstall" in result.stdout.splitlines()[-1]


def test_doctor_names_a_command_that_works_with_flux_as_it_is(
    cli: Call, flux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = json.loads(cli("doctor", "--json").stdout)
    shutil.rmtree(flux / "depth_estimator")
    without_estimator = json.loads(cli("doctor", "--json").stdout)
    monkeypatch.setenv("DEPTHFLUX_MODEL", "demo")
    told_demo = json.loads(cli("doctor", "--json").stdout)

    assert whole["flux_runs"] is without_estimator["flux_runs"] is told_demo["flux_runs"] is True
    assert "--control-image PICTURE" in whole["next"]
    assert "--control-image DEPTH_MAP --no-preprocess-depth" in without_estimator["next"]
    assert told_demo["next"] == "depthflux demo"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DEVICE", "tpu"), ("DEVICE", "cuda:99"), ("NO_SETTING", "1")],
)
def test_doctor_finds_what_the_environment_breaks(
    variable: str, value: str, cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DEPTHFLUX_{variable}", value)

    result = cli("doctor")
    demo = cli("demo")

    assert (result.exit_code, demo.exit_code) == (3, 3)
    assert result.stdout.splitlines()[-1] == f"Next: unset DEPTHFLUX_{variable}"


@pytest.mark.parametrize("variable", ["CONTROL_LORA", "DEPTH_ESTIMATOR", "WEIGHTS_DIR"])
def test_what_the_environment_says_for_flux_does_not_keep_the_demo_from_running(
    variable: str, cli: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"DEPTHFLUX_{variable}", "/none")

    assert cli("demo", "--steps", "1", "--out", tmp_path).exit_code == 0


def test_gpus_are_what_the_drivers_own_tool_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    answer = "NVIDIA H200, 570.86.10, 142345, 143771"
    tool.write_text(f"#!{sys.executable}\nprint('{answer}')\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    found = driver_gpus()
    tool.write_text(f"#!{sys.executable}\nraise SystemExit(9)\n")
    failed = driver_gpus()
    tool.unlink()
    absent = driver_gpus()

    assert found == ["NVIDIA H200, driver 570.86.10, 139.0 GiB free of 140.4 GiB"]
    assert failed[0].startswith("nvidia-smi failed: ")
    assert absent == []
    assert read_gpu_line("No devices were found") == "No devices were found"


def test_config_show_tells_each_value_its_source_and_what_it_becomes(
    cli: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHFLUX_DEVICE", "cpu")

    words = ("--profile", "exact", "--threads", 2, "--set", "fetch-timeout-s=5", "--no-compile")
    result = cli("config", "show", *words, "--json")

    document = json.loads(result.stdout)
    settings = document["settings"]
    assert document["profile"] == "exact"
    assert list(settings) == list(EngineSettings.model_fields)
    sources = {name: (entry["value"], entry["source"]) for name, entry in settings.items()}
    assert sources["device"] == ("cpu", "environment DEPTHFLUX_DEVICE")
    assert sources["dtype"] == ("bfloat16", "profile exact")
    assert sources["threads"] == (2, "argument")
    assert sources["compile"] == (False, "argument")
    assert sources["fetch_timeout_s"] == (5.0, "argument")
    assert sources["embed_control_image"] == (True, "default")
    assert settings["device"]["here"]["value"].startswith("cpu, CPU ")
    assert settings["model"]["here"]["value"] == "missing"


def test_set_takes_text_as_the_environment_does(cli: Call) -> None:
    values = ("model=1", "control-lora=null", "threads=null", "compile=false", "device=cpu")
    words = [word for value in values for word in ("--set", value)]

    result = cli("config", "show", "--profile", "exact", *words, "--json")

    assert result.exit_code == 0, result.stderr
    settings = json.loads(result.stdout)["settings"]
    assert settings["model"]["value"] == "1"
    assert settings["compile"]["value"] is False
    assert settings["control_lora"]["value"] is settings["threads"]["value"] is None


def test_config_show_as_a_table_names_every_setting(cli: Call) -> None:
    result = cli("config", "show", "--profile", "demo")

    assert result.stdout.startswith("profile demo\n")
    for name, field in EngineSettings.model_fields.items():
        assert name in result.stdout
        assert (field.description or "").split()[0] in result.stdout
    assert all(line == line.rstrip() for line in result.stdout.splitlines())


def test_auto_values_become_what_this_machine_has(cli: Call) -> None:
    words = ("--profile", "exact", "--device", "cpu", "--json")
    settings = json.loads(cli("config", "show", *words).stdout)["settings"]

    assert settings["compile"]["value"] == "auto"
    assert settings["compile"]["here"]["value"] == "false"
    assert settings["threads"]["here"]["value"] == str(torch.get_num_threads())


def test_progress_without_a_terminal_is_one_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]

    with StepProgress(clock=lambda: now[0]) as progress:
        now[0] = 100.0
        progress.phase("preparing")
        for step in range(1, 13):
            now[0] += LINE_INTERVAL_S / 4
            progress.on_step(step, 12)

    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "step 4 of 12\nstep 8 of 12\nstep 12 of 12\n"


def test_progress_on_a_terminal_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    with StepProgress() as progress:
        progress.phase("preparing")
        progress.on_step(3, 12)

    told = capsys.readouterr()
    assert told.out == ""
    assert "denoising" in told.err
    assert "3/12" in told.err
