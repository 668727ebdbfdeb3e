"""`depthflux bench hosted` from outside: what is refused before money, and other sides."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from bench_runs import (
    CASE,
    CASES,
    EXAMPLES,
    KEY,
    Bench,
    port_of,
)
from hosted_stub import Behaviour, Failure, HostedStub

from stand_in.running import StandInServer

# Refusals ----------------------------------------------------------------------------------------


def test_a_wrong_key_ends_the_run_before_anything_is_paid(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.environment["WAVESPEED_API_KEY"] = "another-key-0123456789"
    with HostedStub(KEY) as stub:
        run = bench.run("--base-url", stub.base_url, "--profile", "demo")

        assert stub.charged == 0
    assert run.code == 3
    assert f"WAVESPEED_API_KEY was refused by 127.0.0.1:{port_of(stub.base_url)}" in run.error
    assert "another-key" not in run.out + run.err
    assert not (bench.out / "local").exists(), "and before the model was loaded"


def test_a_host_that_cannot_be_reached_ends_the_run_before_the_model_is_loaded(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    bench = Bench(tmp_path)

    run = bench.run("--base-url", f"http://127.0.0.1:{port}", "--profile", "demo")

    assert run.code == 1
    assert f"127.0.0.1:{port}" in run.error
    assert "0 of 6 tasks of hosted are done; 0 pictures count as paid." in run.error
    assert not (bench.out / "local").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(
            ("--profile", "cpu", "--set", "weights_dir=/nowhere", "--set", "model=/nowhere"),
            "the local server of profile cpu: there is no model",
            id="model",
        ),
        pytest.param(
            ("--profile", "demo", "--estimator", "."), "the depth estimator", id="estimator"
        ),
    ],
)
def test_what_cannot_be_loaded_here_is_told_before_anything_is_paid(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, CASES[:1])
    with HostedStub(KEY) as stub:
        run = bench.run("--base-url", stub.base_url, *words)

        assert stub.charged == 0
    assert run.code == 3
    assert message in run.error


def test_both_profiles_are_looked_at_before_the_first_one_paints(tmp_path: Path) -> None:
    bench = Bench(tmp_path, CASES[:1])
    profile = tmp_path / "gone.toml"
    profile.write_text('model = "/nowhere"\ndevice = "cuda:7"\n')

    run = bench.run("--against-profile", "demo", "--profile", profile)

    assert run.code == 3
    assert "cuda:7" in run.error
    assert not (bench.out / "against").exists()


def test_a_side_that_completes_nothing_ends_the_run_with_an_error_and_a_report(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, CASES[:2])
    with HostedStub(KEY, Behaviour(failing=lambda number: Failure("It fell over.", 1403))) as stub:
        run = bench.run("--base-url", stub.base_url, "--profile", "demo")

    assert run.code == 1
    assert "hosted completed none of 2 tasks, so nothing is compared" in run.error
    assert "It fell over" in run.error
    assert bench.document().sides[0].counts.failed == 2
    assert (bench.out / "report.html").exists()
    assert (bench.out / "manifest.json").exists()


# Other first sides -------------------------------------------------------------------------------


def test_another_server_in_sync_mode_is_asked_like_any_other(tmp_path: Path) -> None:
    slow = CASE.format(name="slow", picture=EXAMPLES / "one-object.png", seed=7)
    bench = Bench(tmp_path / "bench", CASES[:1], more=slow.replace("paint slow", "slow 3"))
    with StandInServer(tmp_path / "data", keys=(KEY,), sync_timeout_s=1.5) as server:
        run = bench.run(
            *("--base-url", server.address, "--api-version", "v3", "--sync-mode"),
            *("--profile", "demo"),
        )

    assert run.code == 0, run.err
    first, second = bench.outcomes()["ant-0"], bench.outcomes()["slow-0"]
    assert (first["polls"], first["times"]["submit_seconds"]) == (0, None)
    assert second["polls"] > 0, "the wait was over before the picture"
    assert second["times"]["total_seconds"] >= 3
    document = bench.document()
    assert [side.counts.completed for side in document.sides] == [2, 2]
    assert document.sides[0].model == "depthflux/stand-in"
    assert document.plan.sync_mode is True


def test_two_profiles_of_one_model_share_their_noise_and_nearly_their_pictures(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, CASES[:2])
    del bench.environment["WAVESPEED_API_KEY"]

    run = bench.run(
        "--profile", "demo", "--against-profile", "reference", "--set", "model=demo",
        "--device", "cpu", "--repeat", "2", "--concurrency", "2",
    )  # fmt: skip

    assert run.code == 0, run.err
    document = bench.document()
    assert document.same_noise is True
    assert [side.name for side in document.sides] == ["against", "local"]
    assert [side.counts.completed for side in document.sides] == [4, 4]
    by_name = {compared.name: compared for compared in document.difference}
    ssim = by_name["ssim"].difference
    assert ssim is not None
    assert ssim.value > 0.99
    for case in document.cases:
        seeds = [picture.seed for picture in case.pictures]
        assert seeds == [case.fields["seed"], case.fields["seed"] + 1]
        assert all(picture.is_equal or picture.psnr_db > 40 for picture in case.pictures)
