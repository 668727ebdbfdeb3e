"""`depthflux generate` with the packaged miniature: results, records, stdin, no network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from depthflux.cli.demo import demo_source
from depthflux.contract import Envelope
from depthflux.images import encode_image, read_record
from depthflux.model.demo import demo_folder

Call = Callable[..., Result]

DEMO = ("generate", "--profile", "demo", "--control-image", demo_source(), "--size", "512*512")
QUICK = (*DEMO, "--num-inference-steps", 2)


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def made(cli: Call, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """Two pictures from options alone."""
    out = tmp_path_factory.mktemp("made") / "out"
    words = ("--prompt", "a red sphere", "--seed", 9_999_999_999, "--num-images", 2, "--out", out)
    return cli(*QUICK, *words), out


@pytest.fixture(scope="module")
def piped(cli: Call, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A picture from a file of fields and a picture on standard input, withheld, as JSON."""
    folder = tmp_path_factory.mktemp("piped")
    fields = 'prompt = "a cone"\nsize = "512*513"\nnum_inference_steps = 1\nseed = 1\nfit = "cover"'
    (folder / "request.toml").write_text(fields)
    words = ("--request", folder / "request.toml", "--control-image", "-", "--seed", 2)
    settings = ("--profile", "demo", "--set", "safety-threshold=0")
    server_fields = ("--webhook-url", "https://example.com/hook")
    result = cli(
        "generate", *words, *settings, *server_fields, "--out", folder / "out", "--json",
        given=demo_source().read_bytes(),
    )  # fmt: skip
    return result, folder / "out"


def test_generate_prints_the_paths_of_its_pictures_and_nothing_else(
    made: tuple[Result, Path],
) -> None:
    result, out = made

    assert result.exit_code == 0, result.stderr
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert len(paths) == 2
    assert [_pixels(path).shape for path in paths] == [(512, 512, 3)] * 2
    assert {path.parent for path in paths} == {out}
    assert len(list(out.iterdir())) == 3
    assert [read_record(path)["picture"]["seed"] for path in paths] == [9_999_999_999, 0]


def test_generate_says_which_model_ran_on_standard_error(made: tuple[Result, Path]) -> None:
    result, _ = made

    assert result.stderr.startswith("depthflux/demo: 2 pictures of 512*512 in ")
    assert result.stderr.endswith("(2 steps, seed 9999999999)\n")


def test_json_is_exactly_one_envelope_which_is_also_the_saved_one(
    piped: tuple[Result, Path],
) -> None:
    result, out = piped

    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert Envelope.model_validate(document).model_dump() == document
    saved = Path(url2pathname(urlsplit(document["data"]["urls"]["get"]).path))
    assert json.loads(saved.read_text()) == document
    assert saved.parent == out


def test_options_win_over_the_file_of_fields(piped: tuple[Result, Path]) -> None:
    _, out = piped

    request = read_record(next(out.glob("*.png")))["request"]

    assert request["seed"] == 2
    assert (request["prompt"], request["size"], request["fit"]) == ("a cone", "512*513", "cover")


def test_a_picture_on_standard_input_is_the_control_image(
    piped: tuple[Result, Path], made: tuple[Result, Path]
) -> None:
    recorded = read_record(next(piped[1].glob("*.png")))["control_image"]

    assert recorded == read_record(next(made[1].glob("*.png")))["control_image"]


def test_a_withheld_picture_and_fields_for_servers_are_warned_about(
    piped: tuple[Result, Path],
) -> None:
    result, _ = piped

    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert "webhook_url has an effect over HTTP only" in warnings[0]
    assert "picture 1 was flagged by the safety checker and withheld" in warnings[1]
    assert json.loads(result.stdout)["data"]["has_nsfw_contents"] == [True]


def test_a_depth_map_alone_is_what_the_depth_command_writes_and_is_made_again_from_its_record(
    cli: Call, tmp_path: Path
) -> None:
    words = ("--prompt", "x", "--num-images", 3, "--fit", "cover", "--only-depth-map")
    settings = ("--size", "512*512", "--profile", "demo")

    made = cli(*DEMO, *words, "--out", tmp_path / "made")
    cli("depth", demo_source(), "--out", tmp_path / "map.png", "--fit", "cover", *settings)
    again = cli(
        "generate", "--from-record", made.stdout.strip(), "--out", tmp_path / "again", "--json"
    )

    assert made.exit_code == 0, made.stderr
    assert "depthflux/demo: the depth map of 512*512 in" in made.stderr
    with Image.open(made.stdout.strip()) as map, Image.open(tmp_path / "map.png") as other:
        assert map.mode == "L"
        assert map.tobytes() == other.tobytes()
    assert "the same pixels as" in again.stderr
    data = Envelope(**json.loads(again.stdout)).data
    assert (len(data.outputs), data.has_nsfw_contents) == (1, [False])


def test_from_record_gives_the_same_pixels_and_says_so(
    made: tuple[Result, Path], cli: Call, tmp_path: Path
) -> None:
    original = made[1] / Path(made[0].stdout.splitlines()[1]).name

    result = cli("generate", "--from-record", original, "--out", tmp_path, "-v")

    assert result.exit_code == 0, result.stderr
    assert np.array_equal(_pixels(Path(result.stdout.strip())), _pixels(original))
    assert f"the same pixels as {original}" in result.stderr
    assert "warning" not in result.stderr
    assert "info: depthflux/demo on cpu in float32" in result.stderr


def test_from_record_warns_of_what_differs_and_of_what_the_options_change(
    made: tuple[Result, Path], cli: Call, tmp_path: Path
) -> None:
    original = next(made[1].glob("*-0.png"))
    record = read_record(original)
    record["versions"] |= {"torch": "0.1", "\x1b]0;owned\x07": "1"}
    altered = tmp_path / "altered.png"
    altered.write_bytes(encode_image(Image.new("RGB", (8, 8)), "png", record=record))

    result = cli("generate", "--from-record", altered, "--out", tmp_path / "out", "--seed", 5)

    assert result.exit_code == 0, result.stderr
    assert (
        "warning: seed: 5 from the command line instead of the recorded 9999999999.\n"
        in result.stderr
    )
    assert "warning: versions.torch: '0.1' then" in result.stderr
    assert "the same pixels" not in result.stderr
    assert r"versions.'\x1b]0;owned\x07': '1' then" in result.stderr
    assert "\x1b" not in result.stderr
    made_again = read_record(Path(result.stdout.strip()))
    assert made_again["request"] == {**record["request"], "seed": 5, "num_images": 1}


def test_from_record_warns_when_the_pixels_differ(
    made: tuple[Result, Path], cli: Call, tmp_path: Path
) -> None:
    record = read_record(next(made[1].glob("*-0.png")))
    painted_over = tmp_path / "painted.png"
    painted_over.write_bytes(encode_image(Image.new("RGB", (512, 512)), "png", record=record))

    result = cli("generate", "--from-record", painted_over, "--out", tmp_path / "out")

    assert f"warning: the pixels differ from those of {painted_over}." in result.stderr


def test_from_record_compares_with_a_picture_of_more_than_32_mib(
    made: tuple[Result, Path], cli: Call, tmp_path: Path
) -> None:
    original = next(made[1].glob("*-0.png"))
    # As large as the record of a control image of 31 MB makes it.
    record = read_record(original) | {"padding": base64.b64encode(os.urandom(36_000_000)).decode()}
    with Image.open(original) as picture:
        large = tmp_path / "large.png"
        large.write_bytes(encode_image(picture.convert("RGB"), "png", record=record))
    assert large.stat().st_size > 32 * 2**20

    result = cli("generate", "--from-record", large, "--out", tmp_path / "out")

    assert result.exit_code == 0, result.stderr
    assert f"the same pixels as {large}" in result.stderr


def test_from_record_keeps_its_result_where_the_old_pixels_cannot_be_read(
    made: tuple[Result, Path], cli: Call, tmp_path: Path
) -> None:
    data = bytearray(next(made[1].glob("*-0.png")).read_bytes())
    start = data.index(b"IDAT")
    end = start + 4 + int.from_bytes(data[start - 4 : start])
    data[start + 4 : end] = bytes(end - start - 4)
    # With a good checksum, so that only decoding finds it out.
    data[end : end + 4] = zlib.crc32(data[start:end]).to_bytes(4)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(data)

    result = cli("generate", "--from-record", damaged, "--out", tmp_path / "out")

    assert result.exit_code == 0, result.stderr
    assert Path(result.stdout.strip()).is_file()
    assert "warning: the pixels cannot be compared: from_record=" in result.stderr


def test_from_record_takes_a_model_or_profile_of_ones_own_from_the_command_line(
    cli: Call, tmp_path: Path
) -> None:
    shutil.copytree(demo_folder(), tmp_path / "model")
    (tmp_path / "mine.toml").write_text('device = "cpu"\n')
    own = ("--profile", tmp_path / "mine.toml", "--model", tmp_path / "model")
    words = ("--control-image", demo_source(), "--size", "512*512", "--prompt", "a cone")
    first = cli(
        "generate", *own, *words, "--num-inference-steps", 1, "--out", tmp_path / "first",
        "--set", "safety-threshold=0.9",
    )  # fmt: skip
    original = Path(first.stdout.strip())

    without_profile = cli("generate", "--from-record", original, *own[2:])
    without_model = cli("generate", "--from-record", original, *own[:2])
    again = cli("generate", "--from-record", original, *own, "--out", tmp_path / "again")

    assert (without_profile.exit_code, without_model.exit_code) == (2, 2)
    assert "name it with --profile" in without_profile.stderr
    assert "name it with --model" in without_model.stderr
    assert again.exit_code == 0, again.stderr
    assert f"the same pixels as {original}" in again.stderr
    assert "warning" not in again.stderr
    assert read_record(Path(again.stdout.strip()))["safety"]["threshold"] == 0.9


OFFLINE = """
import socket, sys

attempts = []

def refuse(*arguments, **options):
    attempts.append(arguments)
    raise OSError("the network is out of bounds")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError:
    assert attempts, "the block does not block"
    attempts.clear()

from depthflux.cli import main
try:
    main()
except SystemExit as stop:
    sys.exit(99 if attempts else stop.code)
"""


def test_generate_needs_neither_network_nor_hugging_face_cache(tmp_path: Path) -> None:
    cache = tmp_path / "huggingface"
    cache.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS"))}
    words = [*map(str, QUICK), "--prompt", "a cone", "--out", str(tmp_path / "out")]

    run = subprocess.run(
        [sys.executable, "-c", OFFLINE, *words],
        capture_output=True,
        text=True,
        env={**environment, "HF_HOME": str(cache), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).is_file()
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert run.stderr.startswith("depthflux/demo: 1 picture of 512*512 in ")
    assert run.stderr.count("\n") == 1


def test_ctrl_c_while_painting_stops_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [*map(str, DEMO), "--size", "1536*1536", "--num-inference-steps", "50", "-v"]
    process = subprocess.Popen(
        [sys.executable, "-m", "depthflux", *words, "--prompt", "a cone", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background the signal is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    loaded = process.stderr.readline()
    assert loaded.startswith("info: depthflux/demo on cpu"), loaded + process.stderr.read()
    time.sleep(0.5)

    process.send_signal(signal.SIGINT)
    printed, told = process.communicate(timeout=120)

    assert process.returncode == 130, told
    assert printed == ""
    assert "error: cancelled; nothing was written.\n" in told
    assert "Traceback" not in told
    assert not out.exists()


def test_a_prompt_on_standard_input_is_read_as_utf_8(tmp_path: Path, cli: Call) -> None:
    words = (*DEMO, "--prompt", "-", "--model", tmp_path, "--out", tmp_path / "out")

    understood, refused, empty = (
        cli(*words, given=data) for data in ("é\n".encode(), b"\xff", b"")
    )

    # The first one goes on to the model, which is not there.
    assert (understood.exit_code, refused.exit_code, empty.exit_code) == (3, 2, 2)
    assert "prompt=-: standard input is no UTF-8 text" in refused.stderr
    assert "prompt=-: standard input is empty" in empty.stderr
