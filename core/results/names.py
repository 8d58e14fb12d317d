"""What a neuron is called: the user's own label, else a judge's, else the tokens that it fires on most.

names = open_names(store, app_store)
str(names[2032])                                          # '2032 heart, beat, hand'
app_store.save_labels("smollm2", {2032: "the heart"}, "user")
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from core.errors import NeuronRangeError, UsageError
from core.results.app_store import LABEL_SOURCES, AppStore, LabelSource
from core.results.export import without_apostrophe
from core.store.reader import Store

NAME_TOKENS = 3
SHORT = 60  # characters of a label that stand beside a number
_HIDDEN = str.maketrans({"\n": "↵", "\r": "↵", "\t": "⇥", " ": "␣"})


@dataclass(frozen=True)
class NeuronName:
    """A neuron's number with the words for it; as text, the two together on one line."""

    neuron: int
    words: str  # empty for a neuron that never fires and has no label
    source: LabelSource | Literal["tokens"]

    @property
    def short(self) -> str:
        """The words, cut where they are too long to stand beside a number."""
        return self.words if len(self.words) <= SHORT else f"{self.words[: SHORT - 4].rstrip()} ..."

    def __str__(self) -> str:
        return f"{self.neuron} {self.short}".rstrip()


class Names(Mapping[int, NeuronName]):
    """The names of one setup's neurons, by number."""

    def __init__(self, top_tokens: Sequence[Sequence[str]], labels: pd.DataFrame) -> None:
        """`labels` has columns neuron, label and source, see `AppStore.labels`."""
        self._top_tokens = top_tokens
        self._labels: dict[int, tuple[str, LabelSource]] = {}
        for source in reversed(LABEL_SOURCES):  # the first source is written last, over the others
            mine = labels[labels["source"] == source]
            self._labels |= {int(n): (text, source) for n, text in zip(mine["neuron"], mine["label"], strict=True)}

    def __getitem__(self, neuron: int) -> NeuronName:
        if not 0 <= neuron < len(self):
            raise NeuronRangeError(neuron, len(self))
        if neuron in self._labels:
            return NeuronName(int(neuron), *self._labels[neuron])
        return NeuronName(int(neuron), top_words(self._top_tokens[neuron]), "tokens")

    def find(self, text: str) -> list[int]:
        """The neurons whose label has this text in it, or that fire on such a token, by number; case is ignored."""
        wanted = text.casefold().strip()
        by_token = {
            n for n, tokens in enumerate(self._top_tokens) if any(wanted == t.casefold().strip() for t in tokens)
        }
        by_label = {n for n, (label, _) in self._labels.items() if wanted in label.casefold()}
        return sorted(by_token | by_label)

    def __contains__(self, neuron: object) -> bool:
        return isinstance(neuron, int) and 0 <= neuron < len(self)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self._top_tokens)


def top_words(tokens: Iterable[str], n: int = NAME_TOKENS) -> str:
    """The first `n` tokens that differ as words, with commas between them; punctuation stands in quotes."""
    words: dict[str, str] = {}
    for token in tokens:
        word = token.strip() or token.translate(_HIDDEN)
        if not any(map(str.isalnum, word)):
            word = f'"{word}"'
        words.setdefault(word.casefold(), word)
    return ", ".join(list(words.values())[:n])


def open_names(store: Store, app: AppStore) -> Names:
    """The names of the neurons in a store, with the labels that the app's store keeps for its setup."""
    top_tokens = store.table("neurons", "top_tokens", "neuron").column(0).to_pylist()
    return Names([tokens or [] for tokens in top_tokens], app.labels(store.meta["name"]))


def parse_labels(content: bytes, d_sae: int) -> dict[LabelSource, dict[int, str]]:
    """The labels in a CSV file as `labels --out` writes it: columns neuron, label and, if not a user's, source.

    Raises:
        UsageError: no CSV in UTF-8, or a column is missing or holds something else.
        NeuronRangeError: the SAE has no such neuron.
    """
    try:
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, ValueError) as exc:  # pandas' own errors are ValueErrors
        raise UsageError(f"the labels are no CSV in UTF-8 ({str(exc).splitlines()[0]})") from exc
    if lacking := [name for name in ("neuron", "label") if name not in table]:
        raise UsageError(f"a file of labels has columns neuron and label; '{lacking[0]}' is missing")
    if "source" not in table:
        table["source"] = LABEL_SOURCES[0]
    found: dict[LabelSource, dict[int, str]] = {source: {} for source in LABEL_SOURCES}
    for line, (number, label, source) in enumerate(zip(table["neuron"], table["label"], table["source"], strict=True)):
        if not number.strip().isdecimal() or source not in found:
            raise UsageError(
                f"row {line + 1} of the labels: a neuron's number and one of {', '.join(LABEL_SOURCES)} are due, "
                f"not '{number}' and '{source}'"
            )
        if (neuron := int(number)) >= d_sae:
            raise NeuronRangeError(neuron, d_sae)
        found[source][neuron] = without_apostrophe(label)
    return {source: labels for source, labels in found.items() if labels}
