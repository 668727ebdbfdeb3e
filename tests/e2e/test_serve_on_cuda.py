"""The server's worker on a CUDA device."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.gpu

#: Breaks the device as a faulty kernel does, and asks the painter before and after. In a process of
#: its own, since nothing on CUDA works in it afterwards.
BREAK = """
import torch
import depthflux
from depthflux.server.painting import EnginePainter

painter = EnginePainter(depthflux.load("demo", device="cuda"))
print(painter.device, painter.device_count, painter.is_broken_by(RuntimeError("some other error")))
try:
    torch.zeros(3, device="cuda")[torch.tensor([99], device="cuda")].cpu()
except RuntimeError as error:
    # As Triton or cuDNN would say it: without a word of CUDA's.
    print(painter.is_broken_by(RuntimeError("wrapped")))
"""


def test_a_broken_device_is_known_by_asking_it() -> None:
    run = subprocess.run([sys.executable, "-c", BREAK], capture_output=True, text=True, timeout=300)

    before, after = run.stdout.splitlines()
    assert before.startswith("cuda")
    assert before.endswith("False")
    assert after == "True"
