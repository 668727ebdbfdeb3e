"""Control images: from the suite's files into the run's folder, and to every side alike.

Knows nothing of sides.
"""

from __future__ import annotations

import hashlib

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.run_files import CONTROL, ENDINGS, bad_folder
from depthflux.bench.hosted.suites import Case, Suite
from depthflux.errors import InvalidParameterError
from depthflux.images import read_image


def write_controls(suite: Suite, folder: RunFolder) -> list[str]:
    """Write every case's control image as it is uploaded.

    Returns:
        Their paths in the folder, by the suite's order.

    Raises:
        InvalidParameterError: a file is not the one that the suite was read with.
        UnreadableImageError: it is no picture any more.
    """
    names = []
    for case in suite.cases:
        data, ending = read_control(case)
        names.append(f"{CONTROL}/{case.name}.{ending}")
        folder.write(names[-1], data)
    return names


def read_control(case: Case) -> tuple[bytes, str]:
    """The bytes of a control image as they are uploaded, and the ending that fits.

    What a picture's file says beside its pixels, such as where it was taken, is nobody's business.

    Raises:
        InvalidParameterError: the file is not the one that the suite was read with.
        UnreadableImageError: it is no picture any more.
    """
    data = case.control_image.read_bytes() if case.control_image.is_file() else b""
    if hashlib.sha256(data).hexdigest() != case.control_sha256:
        raise InvalidParameterError(
            f"the control image of {case.name} was changed while the run was at work; run it anew.",
            field="suite",
        )
    source = read_image(data)
    return source.data, ENDINGS[source.media_type]


def control_file(folder: RunFolder, case: Case) -> str:
    """The path of a case's control image in a run's folder.

    Raises:
        InvalidParameterError: it is not there.
    """
    for ending in ENDINGS.values():
        name = f"{CONTROL}/{case.name}.{ending}"
        if (folder.path / name).is_file():
            return name
    raise bad_folder(folder.path, f"the control image of {case.name} is not there")
