"""Closeness: how far two pictures of one size lie apart, pixel by pixel and as seen.

A distance and no quality: two stacks draw other noise for one seed, so their pictures differ
without one being better. The formulas are torchmetrics'. Nothing is resized, and nothing is
downloaded: LPIPS is measured where torchvision is installed and its AlexNet lies in torch's own
cache already.

Knows nothing of sides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from depthflux.bench.quality.figures import Found, Measured
from depthflux.errors import WeightsCorruptError, first_line

if TYPE_CHECKING:
    import torch

#: How each is measured, one sentence each.
HOW_SSIM = (
    "SSIM of the two pictures (Wang et al. 2004: Gaussian window of 11*11 pixels, sigma 1.5, "
    "mirrored at the border, mean over R, G and B, data range 255) in float32, which loses up to "
    "0.001 in white areas; equal pictures have exactly 1, and intervals end at -1 and 1."
)
HOW_PSNR = "PSNR over R, G and B in dB, peak 255; equal pictures have none and are counted apart."
HOW_LPIPS = (
    "LPIPS of the two pictures (Zhang et al. 2018, version 0.1, AlexNet) at their own size: 0 is "
    "equal, larger is farther apart."
)

#: The largest value of a channel.
PEAK = 255.0
#: SSIM's window, in pixels a side: sigma 1.5, cut at 3.5 sigma. Smaller pictures have no place
#: where it fits.
WINDOW = 11
#: Below this AlexNet's last layer has no pixel.
LEAST_SIDE_OF_ALEXNET = 63
#: Where an importer says that it looked.
_FOLDERS = re.compile(r" ?\(?/[^\s)]*\)?")
#: torchvision's file name of the weights that LPIPS was fitted on.
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"


@dataclass(frozen=True)
class Closeness:
    """How far two pictures lie apart.

    Attributes:
        ssim: from -1 to 1, and exactly 1 of equal pictures; None where it was not measured.
        psnr_db: likewise; None also where the pictures are equal.
        is_equal: whether every pixel is; None where nothing was measured.
        missing: why something was not measured, one line without a full stop; else empty.
    """

    ssim: float | None
    psnr_db: float | None
    is_equal: bool | None
    missing: str = ""


def closeness(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Closeness:
    """SSIM and PSNR of two pictures, on the CPU in float32: 5 s for 1536*1536 on two cores.

    Args:
        first: uint8 [H, W, 3], 0..255, sRGB.
        second: likewise; of another size nothing is measured.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    if first.shape != second.shape:
        return Closeness(None, None, None, _other_size(first, second))
    is_equal = bool(np.array_equal(first, second))
    one, other = _tensor(first), _tensor(second)
    psnr = None if is_equal else float(peak_signal_noise_ratio(one, other, data_range=PEAK))
    if min(first.shape[:2]) < WINDOW:
        return Closeness(None, psnr, is_equal, f"SSIM needs {WINDOW} pixels a side or more")
    if is_equal:
        # What the formula gives within float32's rounding, and without it.
        return Closeness(1.0, psnr, is_equal)
    # Any: declared as a pair too, which it is only where the map is asked for.
    ssim: Any = structural_similarity_index_measure(one, other, sigma=1.5, data_range=PEAK)
    return Closeness(min(max(float(ssim), -1.0), 1.0), psnr, is_equal)


class PerceptualDistance:
    """LPIPS with AlexNet, loaded once."""

    def __init__(self, network: Any, device: str) -> None:
        """Measure with a loaded network."""
        self._network = network
        self._device = device

    @classmethod
    def load(cls, file: Path, *, device: str = "cpu") -> Self:
        """Load AlexNet's weights; LPIPS' own come with torchmetrics.

        torchvision builds the empty network and is never asked for weights, so it cannot download
        any; what is read is tensors only, no pickled code.

        Args:
            file: as `find_alexnet` gives it.
            device: where it computes, in float32.

        Raises:
            WeightsCorruptError: the file is truncated, holds more than tensors, or is of another
                network.
        """
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        network = _NoTrainLpips(net="alex", pnet_rand=True)
        backbone = network.net
        try:
            backbone.load_state_dict(_weights_for(backbone, file))
        except (KeyError, TypeError, RuntimeError) as error:
            raise WeightsCorruptError(
                f"{file} is not AlexNet's weights: {first_line(error)}.", fix=_fix(file)
            ) from error
        return cls(network.to(device).eval(), device)

    def distance(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Measured:
        """LPIPS of two pictures.

        Args:
            first: uint8 [H, W, 3], 0..255, sRGB.
            second: likewise; of another size nothing is measured.

        Returns:
            At least 0, larger = farther apart.
        """
        import torch

        if first.shape != second.shape:
            return Measured(None, _other_size(first, second))
        if min(first.shape[:2]) < LEAST_SIDE_OF_ALEXNET:
            return Measured(None, f"LPIPS needs {LEAST_SIDE_OF_ALEXNET} pixels a side or more")
        pictures = [_tensor(one).to(self._device) / PEAK for one in (first, second)]
        with torch.inference_mode():
            return Measured(float(self._network(*pictures, normalize=True)))


def find_alexnet() -> Found:
    """AlexNet's weights in torch's cache, or why LPIPS cannot be measured."""
    import torch.hub

    if problem := _torchvision_problem() or _torchmetrics_problem():
        return Found(None, f"LPIPS is not measured: {problem}")
    file = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE
    if not file.is_file():
        # A report may be shown to strangers, whom this machine's folders do not concern.
        shown = Path(*file.parts[-3:])
        return Found(
            None, f"LPIPS is not measured: {shown} is not there, and nothing is downloaded for it"
        )
    return Found(file)


def _why(error: Exception) -> str:
    return _FOLDERS.sub("", first_line(error))


def _torchvision_problem() -> str:
    """Why torchvision cannot be used; empty where it can."""
    import importlib

    try:
        importlib.import_module("torchvision.models")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "torchvision":
            return "torchvision is not installed"
        return f"torchvision cannot be imported ({_why(error)})"
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        # Built for another torch, it fails in whichever way its operators do.
        return f"torchvision cannot be imported ({_why(error)})"
    return ""


def _torchmetrics_problem() -> str:
    """Why torchmetrics' LPIPS cannot be used; empty where it can."""
    import torchmetrics

    # No public name takes a network without having torchvision load, or download, its weights, and
    # a name that is not public may be gone in another version.
    try:
        from torchmetrics.functional.image.lpips import _NoTrainLpips
    except ImportError:
        return (
            f"torchmetrics {torchmetrics.__version__} gives no network without weights, and a "
            "newer or older one may"
        )
    del _NoTrainLpips
    return ""


def _weights_for(backbone: torch.nn.Module, file: Path) -> dict[str, torch.Tensor]:
    """The file's convolutions by torchmetrics' names: `features.3.bias` is `slice2.3.bias`."""
    import pickle

    import torch

    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsCorruptError(
            f"{file} is truncated or holds more than tensors: {first_line(error)}.", fix=_fix(file)
        ) from error
    names = {name: name.split(".", 1)[1] for name in backbone.state_dict()}
    return {name: weights[f"features.{theirs}"] for name, theirs in names.items()}


def _fix(file: Path) -> str:
    return f"Delete {file.name} and fetch it anew, or delete it and go without LPIPS."


def _tensor(rgb: NDArray[np.uint8]) -> torch.Tensor:
    """float32 [1, 3, H, W], 0..255, of a picture."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float()


def _other_size(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> str:
    sizes = " and ".join(f"{one.shape[1]}*{one.shape[0]}" for one in (first, second))
    return f"the pictures are of two sizes, {sizes}"
