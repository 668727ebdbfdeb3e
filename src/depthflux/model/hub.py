"""The Hugging Face Hub through huggingface_hub: listing a repository, fetching a file of it.

The token of HF_TOKEN or `hf auth login`, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there.
The one module that calls huggingface_hub, imported inside its functions: pulling alone needs it.
Knows nothing of which files are wanted, where they land and what they should be.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthflux.errors import (
    LicenceError,
    OutputError,
    SetupError,
    WeightsMissingError,
    first_line,
    show,
)
from depthflux.model.catalogue import Entry

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

#: Seconds to wait for an answer about a repository or a file, as huggingface_hub itself waits.
ANSWER_TIMEOUT_S = 10.0
#: Seconds to wait for another process to let go of a folder: enough to tell a lock from none.
LOCK_TIMEOUT_S = 0.2
SIGN_IN = "sign in with that account: hf auth login, or set HF_TOKEN"


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it.

    Attributes:
        path: in the repository; nothing says that it is a harmless one.
        bytes: its size; None where the Hub does not say it.
        sha256: of its bytes, which the Hub says of large files only.
        blob_id: git's own sum of it, which stands for the bytes of small files only.
    """

    path: str
    bytes: int | None
    sha256: str | None
    blob_id: str | None


def list_files(entry: Entry, revision: str | None, *, fix: str) -> tuple[str, list[RemoteFile]]:
    """The commit that a revision is, and all files in it.

    Args:
        entry: whose repository.
        revision: a commit; None for whatever `main` is now.
        fix: what to do where the Hub cannot be reached, in words.

    Raises:
        LicenceError: the Hub asks for the licence to be accepted.
        WeightsMissingError: the Hub cannot be reached or knows no such repository or revision.
    """
    from huggingface_hub import HfApi

    with translated_errors(entry, fix=fix):
        try:
            info = HfApi().model_info(
                entry.repository, revision=revision, files_metadata=True, timeout=ANSWER_TIMEOUT_S
            )
            return _commit(info.sha, revision), list(map(_remote_file, info.siblings or ()))
        # Such as the page on which a hotel's network asks for a name.
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise WeightsMissingError(
                f"the answer of {_endpoint()} about {entry.repository} is no list of files: "
                f"{first_line(error)}.",
                fix=fix,
            ) from error


def require_access(entry: Entry, path: str, revision: str, *, fix: str) -> None:
    """See that the Hub would give a file, before gigabytes of others are fetched.

    Raises:
        LicenceError: it asks for the licence to be accepted.
        WeightsMissingError: it cannot be reached, or does not give the file.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with translated_errors(entry, fix=fix):
        url = hf_hub_url(entry.repository, path, revision=revision)
        get_hf_file_metadata(url, timeout=ANSWER_TIMEOUT_S)


def fetch(
    entry: Entry,
    file: RemoteFile,
    revision: str,
    partial: Path,
    *,
    on_bytes: Callable[[int], None],
    fix: str,
) -> None:
    """Fetch a file's bytes to the end of what is there of it.

    hf_hub_download throws away what it has when it is stopped, and gives a file its name before
    its sum was compared; http_get under it goes on where a file ends.

    Args:
        entry: whose repository.
        file: which of its files.
        revision: the commit.
        partial: where the bytes are added; made where it is missing.
        on_bytes: told of bytes that arrived; of fewer than none where it begins again.
        fix: what to do where the fetching breaks off, in words.

    Raises:
        LicenceError: the Hub asks for the licence to be accepted.
        WeightsMissingError: the Hub cannot be reached, breaks off or does not give the file.
        OutputError: the bytes cannot be written.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    with translated_errors(entry, fix=fix), partial.open("ab") as stream:
        http_get(
            hf_hub_url(entry.repository, file.path, revision=revision),
            stream,
            resume_size=stream.tell(),
            # httpx2 takes the token out where the Hub sends the request on to another server.
            headers=build_hf_headers(),
            expected_size=file.bytes,
            displayed_filename=file.path,
            tqdm_class=_Counter.calling(on_bytes),
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let no other pull into a folder until the block ends.

    Raises:
        WeightsMissingError: another one is at work there.
    """
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(folder / ".pull.lock", timeout=LOCK_TIMEOUT_S))
        except TimeoutError as error:
            raise WeightsMissingError(
                f"another pull is at work in {folder}.", fix="Wait until it has ended."
            ) from error
        yield


@contextmanager
def translated_errors(entry: Entry, *, fix: str) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP library raise into errors of ours.

    Args:
        entry: what is being fetched.
        fix: what to do where the Hub cannot be reached, in words.
    """
    # huggingface_hub's own HTTP library; its errors come through.
    import httpx2
    from huggingface_hub import errors as hub

    try:
        yield
    except hub.HfHubHTTPError as error:
        raise _refusal(entry, error) from error
    except hub.OfflineModeIsEnabled as error:
        raise WeightsMissingError(
            f"{_endpoint()} is not asked: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set.", fix=fix
        ) from error
    except httpx2.HTTPError as error:
        raise WeightsMissingError(
            f"{_endpoint()} cannot be reached: {first_line(error)}.", fix=fix
        ) from error
    except OSError as error:
        if error.errno is None:  # http_get: fewer or more bytes than announced
            raise WeightsMissingError(f"{first_line(error)}.", fix=fix) from error
        raise OutputError(
            f"cannot write to {entry.folder}: {error.strerror}; what was fetched is kept.",
            field="weights_dir",
            allowed="a folder that may be written, with space for the files",
        ) from error


def _refusal(entry: Entry, error: HfHubHTTPError) -> SetupError:
    """What an answer of the Hub that is no file means."""
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    status = error.response.status_code
    if isinstance(error, GatedRepoError) or (entry.gated and status in (401, 403)):
        return LicenceError(
            f"{entry.repository} is given only to accounts that have accepted its licence "
            f"({entry.licence}); {_endpoint()} answered {status}.",
            fix=f"Accept it at {entry.page}, then {SIGN_IN}.",
        )
    if status in (401, 403):
        return WeightsMissingError(
            f"{_endpoint()} does not give {entry.repository} and answered {status}.",
            fix="Where a token is set (HF_TOKEN, hf auth login) it may have run out: renew it or "
            "take it away.",
        )
    if isinstance(error, RevisionNotFoundError):
        return WeightsMissingError(
            f"{entry.page} has no longer the revision that is pinned.",
            fix="Copy the files by hand from where they still are.",
        )
    return WeightsMissingError(
        f"{_endpoint()} answered {status} for {entry.repository}: {show(first_line(error))}.",
        fix="Try again later; what was fetched is kept.",
    )


def _commit(answered: object, asked: str | None) -> str:
    commit = str(answered)
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or asked not in (None, commit):
        raise ValueError(f"it is about {show(commit)}, not {asked or 'a commit'}")
    return commit


def _remote_file(sibling: Any) -> RemoteFile:
    large = sibling.lfs
    return RemoteFile(
        path=str(sibling.rfilename),
        bytes=None if sibling.size is None else int(sibling.size),
        sha256=None if large is None else str(large.sha256),
        blob_id=None if large is not None or not sibling.blob_id else str(sibling.blob_id),
    )


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


class _Counter:
    """What http_get takes for a progress bar: it only hands on the numbers."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes = on_bytes

    @classmethod
    def calling(cls, on_bytes: Callable[[int], None]) -> Any:
        """Something http_get can call with a bar's options."""
        return lambda **_options: cls(on_bytes)

    def __enter__(self) -> _Counter:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def update(self, count: float | None = 1) -> None:
        """Take note of bytes."""
        self._on_bytes(int(count or 0))
