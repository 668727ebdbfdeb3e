"""Pictures decoded in a process of its own: the same pixels, and children that misbehave."""

from __future__ import annotations

import logging
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from image_fixtures import encode
from PIL import Image
from test_damaged_pictures import mutate, seeds, with_right_checksums

from depthflux import errors
from depthflux.images import IsolatedDecoder, NoDecoderError, ReadLimits, isolated, read_image
from depthflux.images.container import Header, PictureProblemError
from depthflux.images.decoding import decode
from depthflux.images.decoding_words import memory_for
from depthflux.images.isolated import COMMAND

SOURCE = Path(errors.__file__).parents[1]
LIMITS = ReadLimits(max_pixels=2**20)
#: Pixels of 4 x 2 are 24 bytes.
HEADER = Header(format="png", width=4, height=2, frames=1, orientation=1)
PICTURE = encode(Image.new("RGB", (4, 2), (1, 2, 3)), "PNG")


@pytest.fixture(scope="module")
def decoder() -> Iterator[IsolatedDecoder]:
    """A decoder as it is by default."""
    with IsolatedDecoder() as started:
        yield started


def child_of(decoder: IsolatedDecoder) -> int:
    """The process of the idle child."""
    (child,) = decoder._idle
    return child._process.pid


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(look: Callable[[], bool], timeout_s: float = 10) -> bool:
    ends_at = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.01)
    return True


# The same pictures ------------------------------------------------------------------------------

KINDS = ["png", "palette", "wide", "jpeg", "progressive", "cmyk", "webp", "lossless"]


@pytest.mark.parametrize("name", KINDS)
def test_pixels_are_those_that_this_process_decodes(photo, decoder, name):
    data = seeds(photo)[name]

    here, there = read_image(data), read_image(data, decoder=decoder.decode)

    assert np.array_equal(here.rgb, there.rgb)
    assert (here.grey16 is None) == (there.grey16 is None) == (name != "wide")
    assert here.grey16 is None or np.array_equal(here.grey16, there.grey16)
    assert (here.data, here.sha256) == (there.data, there.sha256)
    assert there.rgb.flags.writeable


def test_damaged_pictures_are_read_or_refused_in_the_same_words_by_one_child(photo, decoder):
    """Whatever a decoder needs late was loaded before it gave up opening files."""
    chance = random.Random(20261130)
    read_image(PICTURE, decoder=decoder.decode)
    child, refused = child_of(decoder), 0

    for name, data in seeds(photo).items():
        for _ in range(40):
            broken = (
                with_right_checksums(mutate(data, chance))
                if name == "png"
                else mutate(data, chance)
            )
            outcomes = []
            for given in ({}, {"decoder": decoder.decode}):
                try:
                    outcomes.append(read_image(broken, limits=LIMITS, **given).rgb.tobytes())
                except errors.UnreadableImageError as error:
                    outcomes.append(str(error))
                    refused += 1
            assert outcomes[0] == outcomes[1]

    assert refused > 100
    assert child_of(decoder) == child


def test_a_picture_of_more_bytes_than_are_taken_reaches_no_decoder() -> None:
    decoder = IsolatedDecoder(command=("/nowhere/python",))

    with pytest.raises(errors.UnreadableImageError, match="has 79 bytes; at most 70 bytes"):
        read_image(PICTURE.ljust(79), limits=ReadLimits(max_bytes=70), decoder=decoder.decode)


@pytest.mark.parametrize("name", ["GIF", "BMP", "PPM", "TIFF", "ICO"])
def test_bytes_of_another_format_are_given_to_no_decoder_of_theirs(name: str) -> None:
    data = encode(Image.new("RGB", (4, 2)), name)

    with pytest.raises(PictureProblemError, match="does not decode"):
        decode(data, HEADER)


# What a child may do ----------------------------------------------------------------------------


def test_a_child_has_no_rights_descriptors_or_secrets_and_a_session_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEPTHFLUX_API_KEYS", "a-secret-key-0123456789")
    monkeypatch.setenv("HF_TOKEN", "a-token")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere/anything.py")
    with Path(os.devnull).open("rb") as file, IsolatedDecoder() as decoder:
        os.set_inheritable(file.fileno(), True)
        read_image(PICTURE, limits=LIMITS, decoder=decoder.decode)
        child = Path(f"/proc/{child_of(decoder)}")

        variables = (child / "environ").read_text().split("\0")
        files = {os.readlink(entry) for entry in (child / "fd").iterdir()}
        limits = (child / "limits").read_text().splitlines()
        status = (child / "status").read_text()
        libraries = (child / "maps").read_text()
        session = os.getsid(child_of(decoder))

    bounds = {line[:25].strip(): line[26:].split()[:2] for line in limits}
    names = {variable.partition("=")[0] for variable in variables if variable}
    assert names <= {"PYTHONPATH", "LD_LIBRARY_PATH", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
    assert {name.partition(":")[0] for name in files} == {"pipe", "/dev/null"}
    assert len([name for name in files if name.startswith("pipe")]) == 2
    for name in ("Max open files", "Max file size", "Max core file size", "Max processes"):
        assert bounds[name] == ["0", "0"]
    assert bounds["Max address space"] == [str(memory_for(LIMITS))] * 2
    assert bounds["Max cpu time"][0] != "unlimited"
    assert "NoNewPrivs:\t1" in status
    assert "torch" not in libraries
    assert session not in (os.getsid(0), 0)


def test_a_child_that_was_taken_over_opens_no_file_socket_or_pipe(tmp_path: Path) -> None:
    attempts = """
import os, socket, sys
from depthflux.images.decoding_process import _give_up_rights
_give_up_rights()
for attempt in (
    lambda: open("/etc/hostname"),
    lambda: open(sys.argv[1], "w"),
    lambda: socket.socket(),
    lambda: os.pipe(),
    lambda: (os.close(0), os.open("/etc/hostname", os.O_RDONLY)),
):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(error.errno)
"""

    said = subprocess.run(
        [sys.executable, "-c", attempts, str(tmp_path / "left behind")],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert said.split() == ["24"] * 5  # EMFILE
    assert not (tmp_path / "left behind").exists()


def test_a_picture_that_takes_more_memory_than_it_may_is_refused_and_the_next_is_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    large = encode(Image.new("RGBA", (2500, 2500)), "PNG", compress_level=1)
    # As though the header had lied: the limits are those of a picture of one pixel.
    header = Header(format="png", width=2500, height=2500, frames=1, orientation=1)

    with IsolatedDecoder() as decoder, caplog.at_level(logging.WARNING):
        with pytest.raises(PictureProblemError, match="more memory to decode than a picture may"):
            decoder.decode(large, header, ReadLimits(max_pixels=1, max_bytes=1))
        after = read_image(PICTURE, limits=LIMITS, decoder=decoder.decode)

    assert after.size == (4, 2)
    assert caplog.messages == [
        "a picture of 2500x2500 (png) takes more memory to decode than a picture may"
    ]


def jpeg_of_many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG of nothing that keeps a decoder busy; no header check lets it through."""
    data = encode(Image.new("L", (8, 8)), "JPEG", progressive=True)
    head, frame = bytearray(data[: data.index(b"\xff\xda")]), data.index(b"\xff\xc2")
    head[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(head) + bytes.fromhex("ffda000801010000000000") * scans + b"\xff\xd9"


ENDLESS = jpeg_of_many_scans(8000, 20_000)  # some minutes
ENDLESS_HEADER = Header(format="jpeg", width=8000, height=8000, frames=1, orientation=1)


def test_a_picture_that_takes_longer_than_it_may_is_refused_and_the_next_is_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with IsolatedDecoder(timeout_s=1) as decoder, caplog.at_level(logging.WARNING):
        busy = child_of(decoder)
        before = time.monotonic()
        with pytest.raises(PictureProblemError, match="takes too long to decode") as refused:
            decoder.decode(ENDLESS, ENDLESS_HEADER, ReadLimits())
        took_s = time.monotonic() - before
        is_gone = not is_alive(busy)
        decoder._timeout_s = 30
        after = read_image(PICTURE, decoder=decoder.decode)

    assert took_s < 10
    assert is_gone
    assert "make it smaller" in refused.value.advice
    assert after.size == (4, 2)
    assert len(caplog.messages) == 1


# Children that misbehave ------------------------------------------------------------------------

#: The first child does what a test says, every further one what it should, without a decoder.
ONCE = """
import json, os, signal, sys, time
def say(data):
    os.write(1, data)
def take():
    job = json.loads(sys.stdin.buffer.readline())
    sys.stdin.buffer.read(job["size"])
say(b'{"kind":"ready"}\\n')
if os.path.exists(sys.argv[1]):
    take()
    say(b'{"problem":"","advice":"","has_grey16":false}\\n' + bytes([1, 2, 3]) * 8)
    take()
open(sys.argv[1], "w").close()
"""
GOOD = b'{"problem":"","advice":"","has_grey16":false}\\n'
IS_NO_ANSWER = "answer what is no answer"

MISBEHAVIOURS = {
    "sleeps": ("take(); time.sleep(600)", "takes too long"),
    "takes nothing": ("time.sleep(600)", "takes too long"),
    "computes": ("take()\nwhile True: pass", "takes too long"),
    "segmentation fault": ("take(); os.kill(os.getpid(), signal.SIGSEGV)", "signal SIGSEGV"),
    "killed": ("take(); os.kill(os.getpid(), signal.SIGKILL)", "signal SIGKILL"),
    "ends": ("take(); sys.exit(9)", "exit code 9"),
    "ends without taking": ("os._exit(0)", "exit code 0"),
    "closes": ("take(); os.close(1); time.sleep(600)", "close its pipes"),
    "no JSON": ("take(); say(b'garbage\\n')", IS_NO_ANSWER),
    "a pickle": ("import pickle; take(); say(pickle.dumps(print) + b'\\n')", IS_NO_ANSWER),
    "another answer": ("take(); say(b'{\"code\":\"import os\"}\\n')", IS_NO_ANSWER),
    "a line without end": (
        "take()\nwhile True: say(b'x' * 4096)",
        IS_NO_ANSWER,
    ),
    "too long a problem": (
        "take(); say(json.dumps({'problem': 'x' * 2000}).encode() + b'\\n')",
        IS_NO_ANSWER,
    ),
    "too few pixels": (f"take(); say(b'{GOOD.decode()}' + bytes(23))", "exit code 0"),
    "too few, and waits": (
        f"take(); say(b'{GOOD.decode()}' + bytes(23)); time.sleep(600)",
        "takes too long",
    ),
    "too many pixels": (
        f"take(); say(b'{GOOD.decode()}' + bytes(25)); time.sleep(600)",
        "say more than it was asked",
    ),
    "a problem and more": (
        "take(); say(b'{\"problem\":\"is odd\"}\\n' + bytes(9)); time.sleep(600)",
        "say more than it was asked",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_a_child_that_misbehaves_costs_its_picture_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    behaviour, words = MISBEHAVIOURS[name]
    command = (sys.executable, "-c", ONCE + behaviour, str(tmp_path / "happened"))
    # Enough for a real one to answer, on busy cores too.
    timeout_s = 0.4 if words == "takes too long" else 30
    hasty = IsolatedDecoder(command=command, timeout_s=timeout_s)

    with hasty, caplog.at_level(logging.WARNING):
        first = child_of(hasty)
        before = time.monotonic()
        with pytest.raises(errors.UnreadableImageError, match=words) as refused:
            read_image(PICTURE, decoder=hasty.decode)
        took_s = time.monotonic() - before
        is_gone = not is_alive(first)
        hasty._timeout_s = 30
        after = read_image(PICTURE, decoder=hasty.decode)

    assert is_gone
    assert took_s < 30
    assert refused.value.hosted_code == 1402
    assert "\n" not in str(refused.value)
    assert len(caplog.messages) == 1
    assert after.rgb.tolist() == [[[1, 2, 3]] * 4] * 2


def test_a_problem_s_words_are_one_line_without_what_a_terminal_acts_on(tmp_path: Path) -> None:
    words = (
        "take(); say(json.dumps({'problem': 'is\\n\\x1b[2Jodd'}).encode() + b'\\n'); time.sleep(9)"
    )
    command = (sys.executable, "-c", ONCE + words, str(tmp_path / "happened"))

    with (
        IsolatedDecoder(command=command) as decoder,
        pytest.raises(errors.UnreadableImageError) as refused,
    ):
        read_image(PICTURE, decoder=decoder.decode)

    assert str(refused.value).isprintable()


@pytest.mark.parametrize("how", ["it was killed", "it speaks unasked"])
def test_an_idle_child_that_is_of_no_use_any_more_is_replaced(tmp_path: Path, how: str) -> None:
    speaks = 'take(); say(b\'{"problem":"is odd"}\\n\'); time.sleep(0.3); say(bytes(24)); take()'
    command = (sys.executable, "-c", ONCE + speaks, str(tmp_path / "happened"))
    with IsolatedDecoder(command=command if how == "it speaks unasked" else COMMAND) as decoder:
        if how == "it was killed":
            read_image(PICTURE, decoder=decoder.decode)
            os.kill(child_of(decoder), signal.SIGKILL)
        else:
            with pytest.raises(errors.UnreadableImageError, match="is odd"):
                read_image(PICTURE, decoder=decoder.decode)
        first = decoder._idle[0]
        assert until(lambda: not first.is_usable)

        after = read_image(PICTURE, decoder=decoder.decode)

    assert after.size == (4, 2)
    assert not is_alive(first._process.pid)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/nowhere/python",), "No such file or directory"),
        ((sys.executable, "-c", ""), "it ends by exit code 0"),
        ((sys.executable, "-c", "import os; os.abort()"), "it ends by signal SIGABRT"),
        (
            (sys.executable, "-c", "import os, time; os.close(1); time.sleep(9)"),
            "it closes its pipes",
        ),
        ((sys.executable, "-c", "import time; time.sleep(9)"), "it takes too long"),
        ((sys.executable, "-c", "print('hello')"), "it is another program"),
        ((sys.executable, "-c", "print('hello' * 10000)"), "it is another program"),
    ],
    ids=["no program", "ends", "dies", "closes", "is silent", "is another program", "is a babbler"],
)
def test_a_child_that_does_not_start_is_the_operator_s_to_mend_and_no_fault_of_the_picture(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    why: str,
) -> None:
    monkeypatch.setattr(isolated, "START_S", 0.5 if why == "it takes too long" else 60)
    decoder = IsolatedDecoder(command=command)

    with caplog.at_level(logging.WARNING), pytest.raises(NoDecoderError) as refused:
        read_image(PICTURE, decoder=decoder.decode)

    assert isinstance(refused.value, errors.SetupError)
    assert f"the decoder's process does not start: {why}." in str(refused.value)
    # Which program it is may be in the log, and in no answer.
    assert command[0] not in str(refused.value)
    assert [command[0] in message for message in caplog.messages] == [True]


def test_where_no_child_can_be_started_ahead_the_first_picture_tries_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "python"

    with (
        caplog.at_level(logging.WARNING),
        IsolatedDecoder(command=(str(program), *COMMAND[1:])) as decoder,
    ):
        program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        program.chmod(0o700)
        after = read_image(PICTURE, decoder=decoder.decode)

    assert after.size == (4, 2)
    assert len(caplog.messages) == 1


# What a child imports ---------------------------------------------------------------------------

#: Reads a picture by a child that needs a package which lies in the second argument's folder.
IMPORTS = """
import sys
if sys.argv[1] == "appended":
    sys.path.append(sys.argv[2])
sys.path.insert(0, "")
sys.path.insert(0, "not there")
from test_isolated_decoding import PICTURE
from depthflux.images import IsolatedDecoder, read_image
code = "import only_there; from depthflux.images.decoding_process import main; main()"
with IsolatedDecoder(command=(sys.executable, "-P", "-s", "-c", code)) as decoder:
    print(read_image(PICTURE, decoder=decoder.decode).size)
"""


@pytest.mark.parametrize("how", ["appended", "relative"])
def test_a_child_finds_what_its_starter_finds(tmp_path: Path, how: str) -> None:
    """As packages in the user's folder, which a child does not look for by itself."""
    there = tmp_path / "packages"
    there.mkdir()
    (there / "only_there.py").touch()
    paths = ["packages"] if how == "relative" else []

    said = subprocess.run(
        [sys.executable, "-c", IMPORTS, how, str(there)],
        cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join([*paths, str(SOURCE), str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (said.stdout, said.stderr) == ("(4, 2)\n", "")


def test_a_child_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = tmp_path / "came"
    # The first is what only the child imports, as its starter has not; both would be found first.
    for name in ("resource", "depthflux"):
        (tmp_path / f"{name}.py").write_text(f"open({str(came)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])

    with IsolatedDecoder() as decoder:
        after = read_image(PICTURE, decoder=decoder.decode)

    assert after.size == (4, 2)
    assert not came.exists()


def test_a_child_starts_where_the_current_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a release's folder was removed under a server that goes on."""
    gone = tmp_path / "release"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with IsolatedDecoder() as decoder:
        after = read_image(PICTURE, decoder=decoder.decode)

    assert after.size == (4, 2)


# Many pictures ----------------------------------------------------------------------------------


def test_a_child_is_replaced_after_some_pictures() -> None:
    with IsolatedDecoder(pictures=2) as decoder:
        children = [child_of(decoder)]
        for _ in range(2):
            read_image(PICTURE, decoder=decoder.decode)
        is_retired = not decoder._idle
        read_image(PICTURE, decoder=decoder.decode)
        children.append(child_of(decoder))

    assert is_retired
    assert children[0] != children[1]
    assert not any(map(is_alive, children))


def test_threads_decode_at_once_and_one_child_is_kept() -> None:
    pictures = [encode(Image.new("RGB", (900, 900), (n, n, n)), "PNG") for n in range(4)]
    levels: dict[int, set[int]] = {}

    with IsolatedDecoder() as decoder:

        def read(number: int) -> None:
            for _ in range(5):
                image = read_image(pictures[number], decoder=decoder.decode)
                levels.setdefault(number, set()).update(np.unique(image.rgb).tolist())

        threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        kept = len(decoder._idle)

    assert levels == {number: {number} for number in range(4)}
    assert kept == 1
    assert not decoder._idle


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "in a picture"])
def test_a_child_ends_at_once_when_its_starter_is_killed(is_busy: bool) -> None:
    script = """
import sys, threading, time
sys.path.insert(0, sys.argv[2])
from test_isolated_decoding import ENDLESS, ENDLESS_HEADER, PICTURE, child_of
from depthflux.images import IsolatedDecoder, ReadLimits, read_image
decoder = IsolatedDecoder()
read_image(PICTURE, decoder=decoder.decode)
child = child_of(decoder)
if sys.argv[1] == "True":
    threading.Thread(
        target=lambda: decoder.decode(ENDLESS, ENDLESS_HEADER, ReadLimits()), daemon=True
    ).start()
    time.sleep(0.5)
print(child, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(is_busy), str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
    ) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        lived = is_alive(child)

        starter.kill()
        starter.wait()

        assert until(lambda: not is_alive(child), timeout_s=5)
    assert lived
