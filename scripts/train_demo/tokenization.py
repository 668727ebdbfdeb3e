"""The two tokenizers, built from the grammar's words. It knows nothing of models or pictures.

Both are built by rule from word lists, so the same code always gives the same vocabulary and
nothing has to be learned from a corpus.
"""

import string
from itertools import pairwise

from transformers import CLIPTokenizer, T5Tokenizer

from train_demo.grammar import FILLER_WORDS, grammar_words

T5_MAX_LENGTH = 32
CLIP_MAX_LENGTH = 64

# Unigram takes the segmentation with the best sum of scores: one whole word (-2) beats its letters
# (-9 each).
_WORD_SCORE, _CAPITALISED_SCORE, _CHARACTER_SCORE = -2.0, -2.5, -9.0


def build_t5_tokenizer() -> T5Tokenizer:
    """A unigram tokenizer of whole words, with single characters for everything else.

    transformers rebuilds T5's tokenizer when it is loaded and drops any normalizer given to it, so
    upper case cannot be folded; capitalised words are pieces of their own instead.
    """
    pieces: dict[str, float] = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": _CHARACTER_SCORE}
    for word in dict.fromkeys([*grammar_words(), *FILLER_WORDS]):
        pieces.setdefault(f"▁{word}", _WORD_SCORE)
        pieces.setdefault(f"▁{word.capitalize()}", _CAPITALISED_SCORE)
    for word in grammar_words():
        pieces.setdefault(f"▁{word.upper()}", _CAPITALISED_SCORE)
        pieces.setdefault(f"▁{word}s", _CAPITALISED_SCORE)
    for character in string.ascii_letters + string.digits + string.punctuation:
        pieces.setdefault(character, _CHARACTER_SCORE)
    return T5Tokenizer(vocab=list(pieces.items()), extra_ids=0, model_max_length=T5_MAX_LENGTH)


def build_clip_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE tokenizer whose merges spell the grammar's and the filler words."""
    alphabet = _byte_characters()
    tokens = [*alphabet, *(f"{character}</w>" for character in alphabet)]
    merges: dict[tuple[str, str], None] = {}
    for word in dict.fromkeys([*grammar_words(), *FILLER_WORDS]):
        _add_merges(word, merges)
    tokens += dict.fromkeys(left + right for left, right in merges)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=CLIP_MAX_LENGTH)


def _add_merges(word: str, merges: dict[tuple[str, str], None]) -> None:
    """Appends merges until, applied in their order, they spell the word as one token."""
    while len(symbols := _spell(word, merges)) > 1:
        merges[next(pairwise(symbols))] = None


def _spell(word: str, merges: dict[tuple[str, str], None]) -> list[str]:
    symbols = [*word[:-1], f"{word[-1]}</w>"]
    for left, right in merges:
        index = 0
        while index < len(symbols) - 1:
            if symbols[index] == left and symbols[index + 1] == right:
                symbols[index : index + 2] = [left + right]
            index += 1
    return symbols


def _byte_characters() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, in the order of GPT-2's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(hidden))]
