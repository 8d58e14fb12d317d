"""CoLA's sentences, texts made up of them, and how well a classifier tells them apart."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from core.errors import PromptFileError
from core.files import require_file
from core.models.acceptability import ACCEPTED
from core.results.statistics import bootstrap_paired
from core.training.made_up_texts import gibberish, paragraph

_BLOCK = 50  # sentences in a row: those of one example in a paper stand together and often share their words
_N_RESAMPLES = 2_000  # as many as for the card of the shipped classifier


@dataclass(frozen=True)
class Sentence:
    """A sentence of CoLA."""

    text: str
    acceptable: bool


def read_cola(path: Path) -> list[Sentence]:
    """The sentences of a file in CoLA's format.

    Raises:
        MissingFileError: no such file.
        PromptFileError: a line does not have four columns, or its label is not 0 or 1.
    """
    require_file(path, "name a file of CoLA (in_domain_train.tsv)")
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as exc:
        raise PromptFileError(path, f"not UTF-8 (byte {exc.start}); save it as UTF-8") from None
    sentences = []
    for number, line in enumerate(lines, start=1):
        columns = line.split("\t")
        if len(columns) != 4 or columns[1] not in ("0", "1"):
            raise PromptFileError(path, f"line {number} is not CoLA's: source, 0 or 1, mark, sentence, by tabs")
        sentences.append(Sentence(columns[3], columns[1] == "1"))
    return sentences


def folds(n: int, n_folds: int) -> Int[np.ndarray, "sentence"]:
    """The fold, from 0, that each of `n` sentences is held back in: blocks of 50 take turns."""
    return np.arange(n) // _BLOCK % n_folds


def made_up(sentences: Sequence[Sentence], n: int, rng: random.Random) -> list[Sentence]:
    """`n` paragraphs of acceptable sentences, and `n` gibberish texts made from them, half of them shuffled words."""
    acceptable = [s.text for s in sentences if s.acceptable]
    kinds = ("shuffled", "pieces", "shuffled", "repetition")
    good = [Sentence(paragraph(acceptable, rng), True) for _ in range(n)]
    return good + [Sentence(gibberish(kinds[i % len(kinds)], acceptable, rng), False) for i in range(n)]


def matthews(actual: Bool[np.ndarray, "text"], predicted: Bool[np.ndarray, "text"]) -> float:
    """Matthews correlation, -1 to 1: 0 for a classifier that always says the same.

    It equals Pearson's correlation of the two binary variables, which is undefined where one of them is constant.
    """
    if len(np.unique(actual)) < 2 or len(np.unique(predicted)) < 2:
        return 0.0
    return float(np.corrcoef(actual, predicted)[0, 1])


def matthews_interval(
    actual: Bool[np.ndarray, "text"], predicted: Bool[np.ndarray, "text"], seed: int = 0
) -> tuple[float, float]:
    """95% bootstrap interval of the Matthews correlation over texts."""
    return bootstrap_paired(actual, predicted, matthews, _N_RESAMPLES, seed)


def labels(sentences: Sequence[Sentence]) -> Bool[np.ndarray, "text"]:
    return np.array([s.acceptable for s in sentences])


def best_threshold(actual: Bool[np.ndarray, "text"], probability: Float[np.ndarray, "text"]) -> tuple[float, float]:
    """The probability from which on to accept, of 0.2, 0.25 ... 0.9, and its Matthews correlation."""
    tried = [
        (round(matthews(actual, probability >= t), 12), -abs(t - ACCEPTED), t)  # equal ones differ by rounding
        for t in np.arange(0.2, 0.91, 0.05)
    ]
    value, _, threshold = max(tried)
    return float(threshold), value
