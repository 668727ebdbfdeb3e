"""The table of all weights: which repository, which of its files, where they land, which licence.

`depthflux weights` and weights/README.md derive from `CATALOGUE`. A revision, a size or a sum
stands here only where the entry's `source` says who states it. What nobody states is unknown, here
None: it is recorded at the first pull (pins.py) and compared from then on.

Knows nothing of networks, nor of what is on disk.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from depthflux.errors import InvalidParameterError, unknown_name_problem

UNKNOWN = "unknown"
HUB = "https://huggingface.co"

FLUX_LICENCE = "FLUX.1 [dev] Non-Commercial License"
_TWO_PROJECTS = "the revision: at least two public projects that pin this repository name it"


@dataclasses.dataclass(frozen=True)
class WantedFile:
    """A file of a repository, or several by a pattern.

    Attributes:
        pattern: the path in the repository; `*` stands for a part of one name, never for a folder.
        bytes: its size; None where that is not known.
        sha256: of its bytes, 64 hexadecimal digits; None where that is not known.
        optional: whether the repository may lack it.
    """

    pattern: str
    bytes: int | None = None
    sha256: str | None = None
    optional: bool = False

    def matches(self, path: str) -> bool:
        """Whether a path in the repository is meant.

        A name of other characters than these is never meant: such as one that leads out of its
        folder on one system or another.
        """
        names, wanted = path.split("/"), self.pattern.split("/")
        return (
            len(names) == len(wanted)
            and all(re.fullmatch(r"\w[\w.-]*", name, re.ASCII) for name in names)
            and all(map(fnmatchcase, names, wanted))
        )


@dataclasses.dataclass(frozen=True)
class Entry:
    """One repository on the Hugging Face Hub.

    Attributes:
        name: what it is called on the command line; two entries may share a name.
        title: what it is, in words.
        repository: its owner and name on the Hub.
        folder: where its files land, under the setting `weights_dir`.
        files: which of its files are wanted.
        licence: of the weights.
        commercial: whether the licence allows commercial use.
        gated: whether the Hub gives it only to accounts that have accepted its licence.
        revision: the commit; None for whatever `main` is at the first pull.
        about: how large the files are altogether, where their exact sizes are not known.
        default: whether it is fetched where no name is given.
        source: who states the revision, the sizes and the sums.
    """

    name: str
    title: str
    repository: str
    folder: str
    files: tuple[WantedFile, ...]
    licence: str
    commercial: bool
    gated: bool = False
    revision: str | None = None
    about: str = UNKNOWN
    default: bool = False
    source: str = ""

    @property
    def page(self) -> str:
        """The repository's page, where its licence stands and can be accepted."""
        return f"{HUB}/{self.repository}"

    @property
    def bytes(self) -> int | None:
        """The files' size altogether; None where one of them is not known."""
        sizes = [file.bytes for file in self.files if not file.optional]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def wanted(self, path: str) -> WantedFile | None:
        """The first wanted file that a path in the repository is; None where it is not wanted."""
        return next((file for file in self.files if file.matches(path)), None)

    def present(self, weights_dir: Path) -> dict[str, Path]:
        """The wanted files that are there, by their path in the repository, sorted."""
        folder = weights_dir / self.folder
        paths = {path for file in self.files for path in folder.glob(file.pattern)}
        found = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
        return {name: found[name] for name in sorted(found) if self.wanted(name)}

    def missing(self, paths: Iterable[str]) -> list[str]:
        """The patterns that none of the paths is, without the optional ones."""
        known = list(paths)
        return [
            file.pattern
            for file in self.files
            if not file.optional and not any(map(file.matches, known))
        ]


def _files(*patterns: str, optional: bool = False) -> tuple[WantedFile, ...]:
    return tuple(WantedFile(pattern, optional=optional) for pattern in patterns)


FLUX = Entry(
    name="flux",
    title="base model, as a diffusers folder",
    repository="black-forest-labs/FLUX.1-dev",
    folder="FLUX.1-dev",
    # Not flux1-dev.safetensors and ae.safetensors, which hold the same weights once more.
    files=(
        *_files("model_index.json", "scheduler/scheduler_config.json"),
        *_files("text_encoder/config.json", "text_encoder/model.safetensors"),
        *_files("text_encoder_2/config.json", "text_encoder_2/model.safetensors.index.json"),
        *_files("text_encoder_2/*.safetensors"),
        *_files("tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"),
        *_files("tokenizer/special_tokens_map.json", "tokenizer/tokenizer.json", optional=True),
        *_files("tokenizer_2/tokenizer_config.json", "tokenizer_2/spiece.model"),
        *_files("tokenizer_2/special_tokens_map.json", "tokenizer_2/tokenizer.json", optional=True),
        *_files("transformer/config.json"),
        *_files("transformer/diffusion_pytorch_model.safetensors.index.json"),
        *_files("transformer/*.safetensors"),
        *_files("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
    ),
    licence=FLUX_LICENCE,
    commercial=False,
    gated=True,
    revision="3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
    # 16.86 billion parameters of two bytes.
    about="about 34 GB",
    default=True,
    source=_TWO_PROJECTS,
)
CONTROL_LORA = Entry(
    name="control-lora",
    title="depth control LoRA",
    repository="black-forest-labs/FLUX.1-Depth-dev-lora",
    folder="FLUX.1-Depth-dev-lora",
    files=(
        WantedFile(
            "flux1-depth-dev-lora.safetensors",
            bytes=1_244_440_512,
            sha256="1938b38ea0fdd98080fa3e48beb2bedfbc7ad102d8b65e6614de704a46d8b907",
        ),
    ),
    licence=FLUX_LICENCE,
    commercial=False,
    gated=True,
    default=True,
    source="the sum: Black Forest Labs, docs/structural-conditioning.md of their repository flux; "
    "the size: at least two public projects that list this file",
)
DEPTH_SMALL = Entry(
    name="depth-small",
    title="depth estimator, Depth Anything V2 Small",
    repository="depth-anything/Depth-Anything-V2-Small-hf",
    folder="Depth-Anything-V2-Small-hf",
    files=(
        WantedFile(
            "config.json",
            bytes=950,
            sha256="c56698d3643dde1f83ea2212759e6b31a22b8f827246a36dd007ee8a22b3ff75",
        ),
        WantedFile(
            "preprocessor_config.json",
            bytes=775,
            sha256="d41175c0d889477ca8fc67191e540faef14baf6275157b3fdecf78469e6bbf84",
        ),
        WantedFile(
            "model.safetensors",
            bytes=99_173_660,
            sha256="3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
        ),
    ),
    licence="Apache-2.0",
    commercial=True,
    revision="5426e4f0f36572d16453bbda7a8389317b1bef99",
    default=True,
    source="revision, sizes and sums: at least two public projects that pin this repository",
)
DEPTH_BASE = Entry(
    name="depth-base",
    title="depth estimator, Depth Anything V2 Base",
    repository="depth-anything/Depth-Anything-V2-Base-hf",
    folder="Depth-Anything-V2-Base-hf",
    files=_files("config.json", "preprocessor_config.json", "model.safetensors"),
    licence="CC-BY-NC-4.0",
    commercial=False,
    revision="b1958afc87fb45a9e3746cb387596094de553ed8",
    source=_TWO_PROJECTS,
)
DEPTH_LARGE = Entry(
    name="depth-large",
    title="depth estimator, Depth Anything V2 Large",
    repository="depth-anything/Depth-Anything-V2-Large-hf",
    folder="Depth-Anything-V2-Large-hf",
    files=_files("config.json", "preprocessor_config.json", "model.safetensors"),
    licence="CC-BY-NC-4.0",
    commercial=False,
    revision="7581137eff8d4e94f6e796d3baea0e9fa79b22d2",
    source=_TWO_PROJECTS,
)
CLIP_TOKENIZER = Entry(
    name="tokenizers",
    title="CLIP's tokenizer, for single-file text encoders",
    repository="openai/clip-vit-large-patch14",
    folder="tokenizers/clip-vit-large-patch14",
    files=(
        *_files("tokenizer_config.json", "vocab.json", "merges.txt"),
        *_files("special_tokens_map.json", "tokenizer.json", optional=True),
    ),
    # The repository itself declares none.
    licence="MIT, as OpenAI's CLIP",
    commercial=True,
    revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
    about="a few MB",
    source=_TWO_PROJECTS,
)
T5_TOKENIZER = Entry(
    name="tokenizers",
    title="T5's tokenizer, for single-file text encoders",
    repository="google/t5-v1_1-xxl",
    folder="tokenizers/t5-v1_1-xxl",
    files=(
        *_files("tokenizer_config.json", "spiece.model"),
        *_files("special_tokens_map.json", "tokenizer.json", optional=True),
    ),
    licence="Apache-2.0",
    commercial=True,
    revision="3db67ab1af984cf10548a73467f0e5bca2aaaeb2",
    about="about 1 MB",
    source=_TWO_PROJECTS,
)

#: In the order in which they are shown and fetched.
CATALOGUE = (
    FLUX,
    CONTROL_LORA,
    DEPTH_SMALL,
    DEPTH_BASE,
    DEPTH_LARGE,
    CLIP_TOKENIZER,
    T5_TOKENIZER,
)
#: The names that the command line knows, each once.
NAMES = tuple(dict.fromkeys(entry.name for entry in CATALOGUE))


def find_entries(names: Iterable[str]) -> list[Entry]:
    """The entries of some names, in the table's order; without names, those fetched by default.

    Raises:
        InvalidParameterError: a name is unknown.
    """
    asked = list(names)
    for name in asked:
        if name not in NAMES:
            raise InvalidParameterError(
                unknown_name_problem(name, NAMES, kind="entry"),
                field="name",
                value=name,
                allowed=", ".join(NAMES),
            )
    return [entry for entry in CATALOGUE if (entry.name in asked if asked else entry.default)]


def how_to_copy(entries: Iterable[Entry], weights_dir: Path) -> str:
    """What to copy where by hand, in words, for a machine that does not reach the Hub."""
    parts = [
        f"{', '.join(file.pattern for file in entry.files if not file.optional)} of {entry.page}"
        f"{f' at revision {entry.revision}' if entry.revision else ''} into "
        f"{(weights_dir / entry.folder).absolute()}"
        for entry in entries
    ]
    return (
        f"Copy by hand, from a machine that reaches it: {'; '.join(parts)}; then run "
        "depthflux weights verify --pin."
    )
