"""Bad input: one clear line on standard error, the right exit code, nothing left behind."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from depthflux.cli.demo import demo_source
from depthflux.cli.root import LazyGroup
from depthflux.errors import BusyError, CancelledError, DepthFluxError
from depthflux.model.demo import demo_folder

Call = Callable[..., Result]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(b"")), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _jpeg() -> bytes:
    buffer = BytesIO()
    Image.effect_noise((400, 300), 60).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good and bad files, which the words of the tables name."""
    (tmp_path / "good.png").write_bytes(demo_source().read_bytes())
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "cut.jpg").write_bytes(_jpeg()[:-2000])
    (tmp_path / "huge.png").write_bytes(_png_that_claims(50_000, 50_000))
    (tmp_path / "a-file").write_text("")
    (tmp_path / "typo.toml").write_text('prompt = "x"\nguidance = 3\n')
    (tmp_path / "broken.toml").write_text("prompt = ")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "latin.toml").write_bytes('prompt = "é"'.encode("latin-1"))
    (tmp_path / "deep.json").write_text('{"loras": ' + "[" * 100_000 + "]" * 100_000 + "}")
    (tmp_path / "deep.toml").write_text("loras = " + "[" * 100_000 + "]" * 100_000)
    # A key that sets the terminal's title, and one that turns the writing direction.
    (tmp_path / "escape.json").write_text('{"\\u001b]0;owned\\u0007": 1}')
    (tmp_path / "bidi.toml").write_text('"\\u202egpj" = 1')
    (tmp_path / "bad-profile.toml").write_text("devise = 'cpu'")
    monkeypatch.chdir(tmp_path)
    return tmp_path


GENERATE = ("generate", "--control-image", "good.png", "--prompt", "a sphere", "--profile", "demo")

REFUSED = {
    "no-prompt": (("generate",), 2, "prompt: is required"),
    "empty-prompt": ((*GENERATE, "--prompt", " "), 2, "prompt=' ' is not allowed"),
    "size-small": ((*GENERATE, "--size", "100*100"), 2, "size='100*100' has width 100; allowed"),
    "size-word": ((*GENERATE, "--size", "abc"), 2, "size='abc' is not of the form width*height"),
    "size-tall": ((*GENERATE, "--size", "700*1636"), 2, "size='700*1636' has height 1636"),
    "nan": ((*GENERATE, "--guidance-scale", "nan"), 2, "guidance_scale=nan is not allowed"),
    "infinite": ((*GENERATE, "--control-scale", "inf"), 2, "control_scale=inf is not allowed"),
    "seed-low": ((*GENERATE, "--seed", "-2"), 2, "seed=-2 is not allowed; allowed: a whole number"),
    "seed-high": ((*GENERATE, "--seed", "10000000000"), 2, "seed=10000000000 is not allowed"),
    "seed-word": ((*GENERATE, "--seed", "abc"), 2, "'abc' is not a valid integer"),
    "steps-none": ((*GENERATE, "--num-inference-steps", "0"), 2, "from 1 to 50"),
    "steps-many": ((*GENERATE, "--num-inference-steps", "51"), 2, "num_inference_steps=51"),
    "pictures": ((*GENERATE, "--num-images", "5"), 2, "num_images=5 is not allowed"),
    "choice": ((*GENERATE, "--fit", "crop"), 2, "'stretch', 'cover', 'contain'"),
    "loras-scale": (
        (*GENERATE, "--loras", '[{"path": "x"}, {"path": "y", "scale": 7}]'),
        2,
        "loras[1].scale=7 is not allowed; allowed: a number from -4 to 4",
    ),
    "loras-typo": ((*GENERATE, "--loras", '[{"path": "x", "weight": 1}]'), 2, "loras[0].weight: "),
    "loras-many": ((*GENERATE, "--loras", f"[{', '.join(['{}'] * 6)}]"), 2, "at most 5 of"),
    "loras-name": ((*GENERATE, "--loras", '["x"]'), 2, "loras[0]='x' is not allowed"),
    "loras-missing": (
        (*GENERATE, "--loras", '[{"path": "x"}]'),
        2,
        "loras[0].path='x': there is no folder weights/loras",
    ),
    "loras-path": (
        (*GENERATE, "--loras", '[{"path": "/etc/passwd"}]'),
        2,
        "paths are not allowed here",
    ),
    "loras-text": ((*GENERATE, "--loras", "[{"), 2, "is no valid JSON"),
    "loras-deep": ((*GENERATE, "--loras", "[" * 100_000), 2, "nests more than 16 deep"),
    "loras-nested": ((*GENERATE, "--loras", "[" * 99 + "1" + "]" * 99), 2, "nests more than 16"),
    "text": ((*GENERATE, "--control-image", "text.png"), 2, "control_image='text.png'"),
    "cut": ((*GENERATE, "--control-image", "cut.jpg"), 2, "control_image='cut.jpg'"),
    "huge": ((*GENERATE, "--control-image", "huge.png"), 2, "has 50000x50000 pixels"),
    "missing": ((*GENERATE, "--control-image", "nope.png"), 2, "there is no such file"),
    "loopback": ((*GENERATE, "--control-image", "http://127.0.0.1/x.png"), 2, "127.0.0.1"),
    "out-in-file": ((*GENERATE, "--out", "a-file/below"), 2, "cannot write a-file/below: "),
    "two-stdins": ((*GENERATE, "--prompt", "-", "--control-image", "-"), 2, "are both -"),
    "empty-stdin": ((*GENERATE, "--control-image", "-"), 2, "standard input is empty"),
    "request-typo": ((*GENERATE, "--request", "typo.toml"), 2, "did you mean guidance_scale?"),
    "request-broken": ((*GENERATE, "--request", "broken.toml"), 2, "is no valid TOML"),
    "request-deep-json": ((*GENERATE, "--request", "deep.json"), 2, "nests more than 16 deep"),
    "request-deep-toml": ((*GENERATE, "--request", "deep.toml"), 2, "nests more than 16 deep"),
    "request-escape": ((*GENERATE, "--request", "escape.json"), 2, r"'\x1b]0;owned\x07'"),
    "request-bidi": ((*GENERATE, "--request", "bidi.toml"), 2, r"'\u202egpj'"),
    "request-list": ((*GENERATE, "--request", "list.json"), 2, "holds no table of fields"),
    "request-latin": ((*GENERATE, "--request", "latin.toml"), 2, "is no valid TOML"),
    "request-missing": ((*GENERATE, "--request", "no.toml"), 2, "cannot be read: No such file"),
    "no-record": ((*GENERATE, "--from-record", "good.png"), 2, "carries no depthflux record"),
    "record-and-request": (
        (*GENERATE, "--from-record", "good.png", "--request", "typo.toml"),
        2,
        "leave --request out",
    ),
    "option": ((*GENERATE, "--promt", "x"), 2, "--prompt"),
    "command": (("genrate",), 2, "did you mean generate?"),
    "command-field": (("field",), 2, "field: there is no such command"),
    "group-option": (("--bogus",), 2, "--bogus"),
    "profile": ((*GENERATE, "--profile", "exakt"), 3, "did you mean exact?"),
    "profile-typo": ((*GENERATE, "--profile", "bad-profile.toml"), 3, "did you mean device?"),
    "setting": ((*GENERATE, "--set", "devise=cpu"), 3, "did you mean device?"),
    "setting-form": ((*GENERATE, "--set", "device"), 3, "is not of the form name=value"),
    "setting-twice": ((*GENERATE, "--set", "threads=1", "--set", "threads=2"), 3, "set twice"),
    "setting-option": ((*GENERATE, "--set", "threads=1", "--threads", "2"), 3, "set twice"),
    "option-setting": ((*GENERATE, "--threads", "2", "--set", "threads=1"), 3, "set twice"),
    "setting-range": ((*GENERATE, "--threads", "0"), 3, "threads=0 (argument)"),
    "device": ((*GENERATE, "--device", "tpu"), 3, "device='tpu' (argument)"),
    "gpu": ((*GENERATE, "--device", "cuda:99"), 3, "device=cuda:99"),
    "weights": (
        (*GENERATE, "--profile", "exact", "--device", "cpu", "--weights-dir", "none"),
        3,
        "there is no model in",
    ),
    "depth-jpeg": (("depth", "good.png", "--out", "d.jpg"), 2, "ends in .png"),
    "depth-folder": (("depth", "good.png", "--out", "."), 2, "cannot write ."),
    "depth-exists": (("depth", "good.png", "--out", "text.png"), 2, "add --force"),
    "depth-missing": (("depth", "nope.png", "--out", "d.png"), 2, "there is no such file"),
    "depth-without-out": (("depth", "good.png"), 2, "Missing option '--out'"),
    "demo-size": (("demo", "--size", "1*1"), 2, "size='1*1' has width 1"),
    "config": (("config", "show", "--set", "nope=1"), 3, "nope: there is no such setting"),
}


@pytest.mark.parametrize(("words", "code", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_refused_with_one_line_and_leaves_nothing(
    words: tuple[str, ...], code: int, message: str, workplace: Path, cli: Call
) -> None:
    before = sorted(workplace.rglob("*"))

    result = cli(*words)

    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.rstrip("\n").isprintable()
    assert message in result.stderr
    assert result.stdout == ""
    assert sorted(workplace.rglob("*")) == before


def _linked_demo(folder: Path) -> Path:
    """The miniature's folder again, made of links, so that one file can be spoilt."""
    for file in demo_folder().rglob("*"):
        if file.is_file():
            link = folder / file.relative_to(demo_folder())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    return folder


@pytest.mark.parametrize("spoilt", ["missing", "truncated", "no-safetensors"])
def test_a_spoilt_weight_file_is_named_and_nothing_is_written(
    spoilt: str, workplace: Path, cli: Call
) -> None:
    model = _linked_demo(workplace / "model")
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    data = file.read_bytes()
    file.unlink()
    if spoilt == "truncated":
        file.write_bytes(data[:-100])
    elif spoilt == "no-safetensors":
        file.write_bytes(b"<html>404</html>" * 100)

    result = cli(*GENERATE, "--model", model)

    assert result.exit_code == 3
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert str(file) in result.stderr
    assert not (workplace / "out").exists()


def test_a_folder_that_was_there_stays_when_the_run_fails(workplace: Path, cli: Call) -> None:
    (workplace / "out").mkdir()

    result = cli(*GENERATE, "--model", workplace / "no-model")

    assert result.exit_code == 3
    assert list((workplace / "out").iterdir()) == []


def _all_errors(kind: type[DepthFluxError]) -> list[type[DepthFluxError]]:
    return [kind, *(error for child in kind.__subclasses__() for error in _all_errors(child))]


def _command_that_raises(error: BaseException) -> Result:
    """What the command line shows when a command of its group raises."""

    @click.command
    def doctor() -> None:
        raise error

    class OneCommand(LazyGroup):
        def get_command(self, _ctx: click.Context, _name: str) -> click.Command:
            return doctor

    return CliRunner().invoke(OneCommand("depthflux"), ["doctor"])


@pytest.mark.parametrize("kind", _all_errors(DepthFluxError), ids=lambda kind: kind.__name__)
def test_every_error_class_ends_the_command_with_its_own_exit_code(
    kind: type[DepthFluxError],
) -> None:
    extra = {"retry_after_s": 1.0} if issubclass(kind, BusyError) else {}

    result = _command_that_raises(kind("two\nlines, \x1b[31mred", **extra))

    assert result.exit_code == kind.exit_code
    assert result.stderr == "error: two lines, \\x1b[31mred\n"


def test_ctrl_c_exits_with_130() -> None:
    result = _command_that_raises(KeyboardInterrupt())

    assert result.exit_code == CancelledError.exit_code == 130
    assert result.stderr.strip() == "error: cancelled; nothing was written."


def test_an_unexpected_exception_keeps_its_traceback() -> None:
    result = _command_that_raises(ZeroDivisionError())

    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (("generate", "--prompt", "-", "--control-image", "good.png"), 2**20),
        (("generate", "--prompt", "x", "--control-image", "-"), 2**25),
        (("demo", "--control-image", "-"), 2**25),
        (
            ("generate", "--prompt", "x", "--control-image", "-", "--set", "max-image-bytes=1024"),
            1024,
        ),
        (("depth", "-", "--out", "d.png", "--profile", "small.toml"), 2048),
    ],
    ids=["prompt", "image", "demo", "setting", "profile"],
)
def test_no_more_of_standard_input_is_read_than_is_accepted(
    words: tuple[str, ...], limit: int, workplace: Path, cli: Call
) -> None:
    (workplace / "small.toml").write_text("max_image_bytes = 2048")
    stream = BytesIO(bytes(limit + 5000))

    result = cli(*words, given=stream)

    assert result.exit_code == 2
    assert f"standard input has more than the {limit} bytes that are read" in result.stderr
    assert result.stderr.count("\n") == 1
    assert stream.tell() == limit + 1


def test_a_closed_standard_input_is_one_clear_line() -> None:
    words = ("-m", "depthflux", "generate", "--prompt", "-")

    run = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" <&-', sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 2
    assert run.stderr == "error: prompt=-: standard input is empty; pipe something into it.\n"


def test_the_process_itself_exits_with_the_code_and_prints_one_line() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "depthflux", "generate", "--prompt", "", "--size", "abc"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert run.stdout == ""
