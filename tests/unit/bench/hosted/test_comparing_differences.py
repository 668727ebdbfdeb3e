"""Two recordings → how far their pictures lie apart, and whether they share their noise."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparing_fixtures import SIZE, Comparing
from run_fixtures import picture

from depthflux.bench.document import Bounded


@pytest.fixture
def made(tmp_path: Path) -> Comparing:
    return Comparing(tmp_path)


def test_equal_pictures_have_no_psnr_and_are_counted_where_noise_is_shared(
    made: Comparing,
) -> None:
    for number in range(2):
        made.give("hosted", number)
        made.give("local", number)

    found = {compared.name: compared for compared in made.compare(same_noise=True).difference}

    assert list(found) == ["equal_pictures", "ssim", "psnr", "lpips"]
    assert found["equal_pictures"].difference is not None
    assert found["equal_pictures"].difference.value == 1.0
    assert found["ssim"].difference is not None
    assert found["ssim"].difference == Bounded(value=1.0, low=1.0, high=1.0)
    assert (found["psnr"].difference, found["psnr"].cases) == (None, 0)
    assert found["psnr"].missing == "all pairs are left out: equal pictures have none"
    assert found["lpips"].missing == "no AlexNet here"
    assert {compared.verdict for compared in found.values()} == {"unknown"}


@pytest.mark.parametrize(
    ("same_noise", "models", "is_shared"),
    [
        (True, ("depthflux/demo", "depthflux/demo"), True),
        (True, ("depthflux/demo", "wavespeed-ai/flux-control-loras/depth"), False),
        (True, ("", ""), False),
        (False, ("a/model", "a/model"), False),
    ],
    ids=["one model", "two models", "no answer", "hosted"],
)
def test_only_profiles_of_one_model_share_their_noise(
    made: Comparing, same_noise: bool, models: tuple[str, str], is_shared: bool
) -> None:
    made.give("hosted", 0)
    made.give("local", 0)

    found = made.compare(same_noise=same_noise, models=models)

    assert found.same_noise is is_shared
    assert (found.difference[0].name == "equal_pictures") is is_shared


def test_intervals_of_what_has_a_range_end_with_it(made: Comparing) -> None:
    for number in range(3):
        made.give("hosted", number, data=picture(100, SIZE))
        made.give("local", number, data=picture(101 if number else 140, SIZE))

    found = {one.name: one.difference for one in made.compare(same_noise=True).difference}

    assert found["ssim"] is not None
    assert found["ssim"].high == 1.0
    assert found["ssim"].value < 1.0


def test_equal_pictures_are_counted_beside_the_psnr_of_the_others(made: Comparing) -> None:
    for number in range(2):
        made.give("hosted", number, data=picture(100 + number, SIZE))
        made.give("local", number, data=picture(100, SIZE))

    psnr = {compared.name: compared for compared in made.compare().difference}["psnr"]

    assert psnr.cases == 1
    assert psnr.caveats == ["1 of 2 pairs is left out: equal pictures have none."]


def test_pictures_of_two_sizes_are_not_resized_to_be_compared(made: Comparing) -> None:
    made.give("hosted", 0, data=picture(size=(64, 64)))
    made.give("local", 0)

    found = made.compare()

    ssim = next(compared for compared in found.difference if compared.name == "ssim")
    assert "the pictures are of two sizes, 64*64 and 64*80" in ssim.missing
    assert found.quality[0].cases == 1, "each is judged by the control image in its own size"
