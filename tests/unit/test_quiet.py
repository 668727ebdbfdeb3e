"""What importing the libraries prints: nothing, with torchao installed, too."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from depthflux.quiet import NOISE, quiet_imports


@pytest.mark.parametrize(
    "script",
    [
        "import depthflux.engine.engine",
        "import depthflux.depth, transformers.models.depth_anything.modeling_depth_anything",
    ],
    ids=["model", "depth"],
)
def test_importing_what_computes_prints_nothing(script: str) -> None:
    script += "; import sys; print('torchao' in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stderr == ""
    assert ran.stdout == "True\n", "torchao was imported along"


@pytest.mark.parametrize("name", NOISE)
def test_other_lines_of_the_same_loggers_are_heard(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    quiet_imports()
    logger = logging.getLogger(name)
    logger.addHandler(caplog.handler)
    try:
        logger.error("%s is wrong", "something else")
    finally:
        logger.removeHandler(caplog.handler)

    assert "something else is wrong" in caplog.messages
