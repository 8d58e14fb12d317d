"""Texts that CoLA lacks, made from its sentences: gibberish, which is not acceptable, and paragraphs, which are.

A steered model may write neither English nor a list of wrong words, but pieces of words again and again. A classifier
that has seen single sentences of grammar books alone has no notion of such text; nor has it of a text of 64 tokens.
"""

import random
from collections.abc import Sequence

GIBBERISH = ("pieces", "repetition", "words")  # its kinds: see `gibberish`
_LENGTHS = (4, 50)  # words, or pieces of words
_PARAGRAPH = (2, 5)  # sentences


def gibberish(kind: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    """A text of no sense.

    Args:
        kind: `pieces` of words (2 to 5 letters of one to four words, in any order, with few spaces); `repetition` of
            one to three words; or `words` drawn at random.
        vocabulary: words to make it of.
    """
    n = rng.randint(*_LENGTHS)
    match kind:
        case "pieces":
            pieces = [_piece(rng.choice(vocabulary), rng) for _ in range(rng.randint(1, 4))]
            space = rng.choice((0.0, 0.1, 0.5))
            return "".join(rng.choice(pieces) + " " * (rng.random() < space) for _ in range(n)).strip()
        case "repetition":
            repeated = rng.sample(vocabulary, rng.randint(1, 3))
            return " ".join(repeated[i % len(repeated)] for i in range(n))
        case "words":
            return " ".join(rng.choice(vocabulary) for _ in range(n))
    raise ValueError(f"no gibberish '{kind}'; there are {', '.join(GIBBERISH)}")


def _piece(word: str, rng: random.Random) -> str:
    start = rng.randrange(max(1, len(word) - 2))
    return word[start : start + rng.randint(2, 5)]


def paragraph(sentences: Sequence[str], rng: random.Random) -> str:
    """Two to five of the sentences in a row, in random order."""
    return " ".join(rng.sample(sentences, min(len(sentences), rng.randint(*_PARAGRAPH))))


def vocabulary_of(sentences: Sequence[str]) -> list[str]:
    """The different words of three letters and more, without marks, sorted."""
    words = {word.strip(".,;:!?\"'()").lower() for sentence in sentences for word in sentence.split()}
    return sorted(word for word in words if len(word) > 2 and word.isalpha())
