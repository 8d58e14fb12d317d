"""Texts that CoLA lacks, made from its sentences: paragraphs, which are acceptable, and gibberish, which is not.

A steered model may write neither English nor a list of wrong words but repeated pieces of words. A classifier trained
only on single sentences from grammar books has seen neither that nor texts of 64 tokens.
"""

import random
from collections.abc import Sequence

GIBBERISH = ("shuffled", "pieces", "repetition")  # kinds of it; see `gibberish`
_SENTENCES = (2, 5)  # of a paragraph, fewest and most
_LENGTHS = (4, 40)  # pieces or repeated words of a text, fewest and most


def paragraph(sentences: Sequence[str], rng: random.Random) -> str:
    """A paragraph of two to five of the sentences, drawn in random order."""
    return " ".join(rng.sample(sentences, min(len(sentences), rng.randint(*_SENTENCES))))


def gibberish(kind: str, sentences: Sequence[str], rng: random.Random) -> str:
    """A meaningless text made from the words of a random paragraph.

    Args:
        kind: `shuffled` puts the words in random order; `pieces` repeats 2 to 5 letters of one to four of the words,
            with few spaces; `repetition` repeats one to three of the words in turn.

    Raises:
        ValueError: no such kind.
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
