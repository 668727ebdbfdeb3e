"""The words of the demo: palette, shapes, forms of a prompt. It knows nothing of pictures.

A prompt names up to three objects from left to right, then perhaps the floor and the sky. Colours
go to objects by that order and by the shape's name.
"""

import random
from dataclasses import dataclass

PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.96, 0.50, 0.06),
    "yellow": (0.97, 0.87, 0.12),
    "green": (0.12, 0.62, 0.18),
    "cyan": (0.15, 0.80, 0.84),
    "blue": (0.12, 0.24, 0.86),
    "purple": (0.50, 0.16, 0.70),
    "pink": (0.97, 0.55, 0.75),
    "white": (0.95, 0.95, 0.95),
    "black": (0.07, 0.07, 0.07),
}
COLOURS = tuple(PALETTE)
SHAPES = ("sphere", "cube", "cylinder", "cone")
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "sphere": ("sphere", "sphere", "sphere", "ball"),
    "cube": ("cube", "cube", "cube", "box"),
    "cylinder": ("cylinder",),
    "cone": ("cone",),
}
FLOOR_WORDS = ("floor", "floor", "floor", "ground")
MAX_OBJECTS = 3

# Words that carry no meaning in the demo's world. They are in the vocabularies so that a prompt
# typed by a person does not fall apart into letters and push the words that matter past the end.
_FILLER = """
a an the and with of on in at under over above below near beside next to is are it its photo
picture image painting render rendering rendered scene view shot simple small big large tiny tall
wide shiny matte glossy smooth beautiful clean bright dark soft warm cold modern old new studio
product room house street city forest tree trees mountain mountains sea lake river beach desert
garden table chair lamp window door wall car cat dog bird person man woman portrait landscape
sunset sunrise night day morning evening light lighting shadow shadows cinematic realistic
photorealistic detailed highly high quality resolution sharp focus depth field minimal abstract
geometric shapes objects object toy three two one style art digital wooden metal glass stone
marble plastic gold silver grey gray brown cozy snow winter summer spring autumn rain cloud clouds
sun moon star stars water fire by for from into through very this that there stands standing sits
sitting lies lying
"""
FILLER_WORDS = tuple(_FILLER.split())


@dataclass(frozen=True)
class Words:
    """What a prompt says; None where it stays silent.

    Attributes:
        objects: (colour, shape) of each object, left to right.
        floor: colour of the floor.
        sky: colour of the sky.
    """

    objects: tuple[tuple[str, str], ...]
    floor: str | None
    sky: str | None


@dataclass(frozen=True)
class Piece:
    """A word of a prompt with what it is about.

    Attributes:
        text: the word, with the comma that follows it.
        entity: 0, 1, 2 for objects from the left, 3 floor, 4 sky, -1 for none.
    """

    text: str
    entity: int = -1


FLOOR_ENTITY, SKY_ENTITY = 3, 4


def grammar_words() -> tuple[str, ...]:
    """Every word that carries meaning, each once."""
    shapes = [word for words in SHAPE_WORDS.values() for word in words]
    return tuple(dict.fromkeys([*COLOURS, *shapes, *FLOOR_WORDS, "sky"]))


def canonical_prompt(words: Words) -> str:
    """The plain form, e.g. "a red sphere and a blue cube on a green floor, white sky"."""
    pieces = _on_a_floor(words, random.Random(0), synonyms=False)
    return join(pieces)


def random_prompt(words: Words, rng: random.Random) -> list[Piece]:
    """One of several forms, with synonyms.

    A few are silent on sky, floor or a colour, some carry filler words, and one in fifty is empty,
    so that whatever a person types has been seen in some form.
    """
    silent = rng.random()
    if silent < 0.06:
        words = Words(words.objects, words.floor, None)
    elif silent < 0.12:
        words = Words(words.objects, None, None)
    form = rng.choices((_on_a_floor, _list, _floor_first), weights=(6, 2, 2))[0]
    pieces = form(words, rng, synonyms=True)
    if rng.random() < 0.04:
        pieces = [piece for piece in pieces if piece.text not in PALETTE or rng.random() < 0.5]
    if rng.random() < 0.12:
        pieces = _with_filler(pieces, rng)
    return pieces if rng.random() > 0.02 else []


def join(pieces: list[Piece]) -> str:
    """The prompt as one string."""
    return " ".join(piece.text for piece in pieces)


def _article(colour: str) -> str:
    return "an" if colour[0] in "aeiou" else "a"


def _noun(shape: str, rng: random.Random, synonyms: bool) -> str:
    return rng.choice(SHAPE_WORDS[shape]) if synonyms else shape


def _floor_noun(rng: random.Random, synonyms: bool) -> str:
    return rng.choice(FLOOR_WORDS) if synonyms else FLOOR_WORDS[0]


def _object_pieces(words: Words, rng: random.Random, synonyms: bool) -> list[Piece]:
    """Words like "a red sphere, a blue cube and a yellow cone"."""
    pieces: list[Piece] = []
    last = len(words.objects) - 1
    for entity, (colour, shape) in enumerate(words.objects):
        if entity == last and last > 0:
            pieces.append(Piece("and"))
        comma = "," if entity < last - 1 else ""
        pieces += [
            Piece(_article(colour), entity),
            Piece(colour, entity),
            Piece(_noun(shape, rng, synonyms) + comma, entity),
        ]
    return pieces


def _on_a_floor(words: Words, rng: random.Random, *, synonyms: bool) -> list[Piece]:
    pieces = _object_pieces(words, rng, synonyms)
    if words.floor:
        comma = "," if words.sky else ""
        noun = _floor_noun(rng, synonyms) + comma
        pieces += [
            Piece("on"),
            Piece(_article(words.floor), FLOOR_ENTITY),
            Piece(words.floor, FLOOR_ENTITY),
            Piece(noun, FLOOR_ENTITY),
        ]
    if words.sky:
        pieces += [Piece(words.sky, SKY_ENTITY), Piece("sky", SKY_ENTITY)]
    return pieces


def _list(words: Words, rng: random.Random, *, synonyms: bool) -> list[Piece]:
    """Words like "red sphere, blue cube, green floor, white sky"."""
    named = [
        (entity, colour, _noun(shape, rng, synonyms))
        for entity, (colour, shape) in enumerate(words.objects)
    ]
    if words.floor:
        named.append((FLOOR_ENTITY, words.floor, _floor_noun(rng, synonyms)))
    if words.sky:
        named.append((SKY_ENTITY, words.sky, "sky"))
    pieces: list[Piece] = []
    for index, (entity, colour, noun) in enumerate(named):
        comma = "," if index < len(named) - 1 else ""
        pieces += [Piece(colour, entity), Piece(noun + comma, entity)]
    return pieces


def _floor_first(words: Words, rng: random.Random, *, synonyms: bool) -> list[Piece]:
    """Words like "a green floor under a white sky with a red sphere"."""
    pieces: list[Piece] = []
    if words.floor:
        noun = _floor_noun(rng, synonyms)
        pieces += [
            Piece(_article(words.floor), FLOOR_ENTITY),
            Piece(words.floor, FLOOR_ENTITY),
            Piece(noun, FLOOR_ENTITY),
        ]
        if words.sky:
            pieces += [
                Piece("under"),
                Piece(_article(words.sky), SKY_ENTITY),
                Piece(words.sky, SKY_ENTITY),
                Piece("sky", SKY_ENTITY),
            ]
        pieces.append(Piece("with"))
    return pieces + _object_pieces(words, rng, synonyms)


def _with_filler(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    """Adds one to four meaningless words at the front or the end, some of them in no vocabulary."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    filler = [
        Piece(
            rng.choice(FILLER_WORDS)
            if rng.random() < 0.8
            else "".join(rng.choices(letters, k=rng.randint(2, 5)))
        )
        for _ in range(rng.randint(1, 4))
    ]
    return [*filler, *pieces] if rng.random() < 0.5 else [*pieces, *filler]
