"""Texts that CoLA lacks, made from its sentences: paragraphs, which are acceptable, and gibberish, which is not.

A steered model may write neither English nor a list of wrong words, but pieces of words again and again. A classifier
that has seen single sentences of grammar books alone has no notion of such text; nor has it of a text of 64 tokens.
"""

import random
from collections.abc import Sequence

GIBBERISH = ("shuffled", "pieces", "repetition")  # its kinds: see `gibberish`
_SENTENCES = (2, 5)
_LENGTHS = (4, 40)  # pieces, or repeated words


def paragraph(sentences: Sequence[str], rng: random.Random) -> str:
    """Two to five of the sentences in a row, in random order."""
    return " ".join(rng.sample(sentences, min(len(sentences), rng.randint(*_SENTENCES))))


def gibberish(kind: str, sentences: Sequence[str], rng: random.Random) -> str:
    """A text of no sense, made of a paragraph of the sentences.

    Args:
        kind: `shuffled`: its words in random order; `pieces`: 2 to 5 letters of one to four of its words, again and
            again, with few spaces; `repetition`: one to three of its words in turn.
    """
    words = paragraph(sentences, rng).split()
    n, few = rng.randint(*_LENGTHS), rng.sample(words, min(len(words), rng.randint(1, 4)))
    match kind:
        case "shuffled":
            return " ".join(rng.sample(words, len(words)))
        case "pieces":
            pieces, space = [_piece(word, rng) for word in few], rng.choice((0.0, 0.1, 0.5))
            return "".join(rng.choice(pieces) + " " * (rng.random() < space) for _ in range(n)).strip()
        case "repetition":
            return " ".join(few[i % len(few[:3])] for i in range(n))
    raise ValueError(f"no gibberish '{kind}'; there are {', '.join(GIBBERISH)}")


def _piece(word: str, rng: random.Random) -> str:
    start = rng.randrange(max(1, len(word) - 2))
    return word[start : start + rng.randint(2, 5)]
