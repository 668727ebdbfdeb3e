"""What goes wrong shows on the node, in one line of ours."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from installed_nodes import InstalledNodes, StandInComfy
from scripted_server import Reply, ScriptedServer

import depthflux
from depthflux.errors import InvalidParameterError
from stand_in.running import StandInServer

REFUSED = {
    "contradiction": ({"invert_depth": True}, "invert_depth=True turns a supplied depth map round"),
    "lora": ({"loras": '[{"scale": 1}]'}, r"loras\[0\]\.path: is required"),
}


@pytest.mark.parametrize("served", [False, True], ids=["in process", "over HTTP"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_the_request_refuses_shows_in_its_words(
    case: str, served: bool, nodes: InstalledNodes, quick: StandInServer
) -> None:
    fields, words = REFUSED[case]
    kind = nodes.error if served else InvalidParameterError

    with pytest.raises(kind, match=words) as caught:
        nodes.generate(quick.address if served else "", **fields)

    assert "\n" not in str(caught.value)


def test_a_prediction_that_fails_shows_the_server_s_words(
    nodes: InstalledNodes, quick: StandInServer
) -> None:
    with pytest.raises(nodes.error, match="failed: memory ran out: this stand-in has none"):
        nodes.generate(quick.address, prompt="memory")


def test_a_depthflux_that_cannot_be_imported_here_is_said_in_one_line(
    nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_profile: str) -> None:
        # As diffusers says it of a torchvision that does not fit ComfyUI's torch.
        raise RuntimeError("Failed to import diffusers.x because of:\nno operator nms\n(see above)")

    nodes.module("in_process").unload()
    monkeypatch.setattr(depthflux, "load", load, raising=False)

    with pytest.raises(nodes.error, match="cannot be loaded in ComfyUI's Python: Failed") as caught:
        nodes.generate()

    assert str(caught.value).isprintable()
    assert "start `depthflux serve`" in str(caught.value)


def test_a_server_that_is_not_there_is_named_with_the_command_that_starts_one(
    nodes: InstalledNodes,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with pytest.raises(nodes.error, match=f"does not answer: .*depthflux serve --port {port}"):
        nodes.generate(f"http://127.0.0.1:{port}")


def test_a_server_that_is_restarted_meanwhile_is_waited_for(
    nodes: InstalledNodes, tmp_path: Path, comfy: StandInComfy
) -> None:
    with StandInServer(tmp_path / "data") as server:
        port = int(server.address.rpartition(":")[2])
        server._settings["port"] = port
        restarted = False

        def restart(_value: int) -> None:
            nonlocal restarted
            if not restarted:
                restarted = True
                server.kill()
                server.start()

        comfy.on_move = restart
        images, _, _ = nodes.generate(server.address, prompt="slow 2")

    assert restarted
    assert images.shape == (1, 512, 512, 3)


KEYS = ("a-key-of-these-tests-0123456789",)


def test_a_key_comes_from_the_environment(
    nodes: InstalledNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandInServer(tmp_path / "data", keys=KEYS) as server:
        with pytest.raises(nodes.error, match="DEPTHFLUX_COMFYUI_API_KEY of ComfyUI's process"):
            nodes.generate(server.address)
        monkeypatch.setenv("DEPTHFLUX_COMFYUI_API_KEY", KEYS[0])
        monkeypatch.setenv("DEPTHFLUX_COMFYUI_ADDRESS", server.address)
        images, _, _ = nodes.generate(server.address)

    assert images.shape == (1, 512, 512, 3)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(b"<html>"), "not as depthflux does"),
        (Reply({"data": {"id": "../../x"}}), "answers without an id"),
        (Reply({"data": []}), "not as depthflux does"),
        (Reply({"message": "no\x1b[31m\nroom"}, status=400), r"refuses \(400\): no\?\[31m room"),
        (Reply({}, status=500), r"refuses \(500\): without a word"),
        (Reply(breaks=True), "does not answer"),
    ],
    ids=["page", "id", "data", "refusal", "nothing", "silence"],
)
def test_what_is_no_depthflux_is_told_apart(
    reply: Reply, words: str, nodes: InstalledNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes.module("served"), "AWAY_S", 0)
    with (
        ScriptedServer(reply) as other,
        pytest.raises(nodes.error, match=words) as caught,
    ):
        nodes.generate(other.url)

    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 8, 8, 3), "control_image has 2 pictures; allowed: one"),
        ((8, 8, 3), r"control_image has the shape \[8, 8, 3\]"),
        ((1, 8, 8, 1), r"control_image has the shape \[1, 8, 8, 1\]"),
    ],
)
def test_a_control_image_is_one_picture(
    shape: tuple[int, ...], words: str, nodes: InstalledNodes
) -> None:
    with pytest.raises(nodes.error, match=words):
        nodes.generate(control_image=torch.zeros(shape))


def test_a_control_image_of_no_numbers_is_refused(nodes: InstalledNodes) -> None:
    with pytest.raises(nodes.error, match="no numbers"):
        nodes.generate(control_image=torch.full((1, 8, 8, 3), torch.nan))


def test_pictures_go_to_a_server_and_back_without_loss(nodes: InstalledNodes) -> None:
    pictures = nodes.module("pictures")
    levels = (torch.arange(256, dtype=torch.float32) / 255.0).reshape(1, 16, 16, 1)
    image = levels.expand(1, 16, 16, 3)
    transparent = torch.cat([image, torch.zeros(1, 16, 16, 1)], dim=-1)

    for given in (image, transparent):
        back = pictures.batch_of([pictures.pixels_of(pictures.png_of(given), (16, 16))])
        assert torch.equal(back, image)
