"""One question answered unsteered and with one neuron amplified; streamed, kept, and shown as HTML."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from core.results.names import Names
from core.store.reader import Store
from pages.shared.columns import columns_html, figure_table, number, section
from pages.shared.comparison import COLUMNS
from pages.shared.names import neuron_link
from pages.shared.resources import workbench

if TYPE_CHECKING:  # imports torch, which is loaded when something is generated
    from core.catalog import Setup
    from core.steering.generated import Generation

FIGURES = ("perplexity", "distinct_2", "repetition", "confidence", "language_switch", "n_tokens")
_CHANGED = "ss-3"  # a step of the ramp on which text is readable in both themes
_MOST_KEPT = 128


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, and the neuron and alpha with which it is answered."""

    setup: Setup
    fingerprint: str  # of the setup's store
    neuron: int | None  # None: unsteered
    alpha: float
    question: str
    max_new_tokens: int

    @property
    def unsteered(self) -> Asked:
        """The same question without steering."""
        return replace(self, neuron=None, alpha=0.0)

    @property
    def due(self) -> tuple[Asked, ...]:
        """The answers that are shown side by side: the unsteered one, and the steered one unless alpha is 0."""
        return (self.unsteered, self) if self.alpha else (self.unsteered,)


@dataclass
class Answer:
    """One answer, while and after it is written."""

    asked: Asked
    generation: Generation | None = None  # None: read from a saved sweep
    figures: dict[str, Any] | None = None  # with its text; None until it is complete

    @property
    def text(self) -> str:
        """The answer so far."""
        if self.figures is not None:
            return str(self.figures["text"]).strip()
        return "" if self.generation is None else self.generation.text.strip()


@dataclass
class Answers:
    """The answers that a browser session has seen; the unsteered one of a question serves every neuron and alpha."""

    kept: dict[Asked, Answer] = field(default_factory=dict)  # latest last
    seconds: dict[Setup, float] = field(default_factory=dict)  # that the last run took, and its number of answers
    shown: list[Answer] = field(default_factory=list)  # as last shown in full, side by side

    def complete(self, asked: Asked) -> bool:
        """Whether both answers are there with their figures."""
        return all(one in self.kept and self.kept[one].figures is not None for one in asked.due)

    def take_saved(self, asked: Asked, sweep: pd.DataFrame) -> None:
        """Takes the answers that a saved sweep of the neuron has."""
        for one in asked.due:
            if one in self.kept and self.kept[one].figures is not None:
                continue
            rows = sweep[(sweep["question_text"] == asked.question) & (sweep["alpha"] == one.alpha)]
            if len(rows):
                self.kept[one] = Answer(one, figures=rows.iloc[0].to_dict())

    def run(self, asked: Asked, store: Store) -> Iterator[None]:
        """Writes the answers that are missing, side by side; yields after every token, and once they are measured.

        Raises:
            SteerscopeError: the setup cannot be loaded, the question cannot be asked, or the model's output overflows.
        """
        from core.sweep.run import answer_rows, answers

        missing = [one for one in asked.due if one not in self.kept or self.kept[one].figures is None]
        alphas = tuple(one.alpha for one in missing)
        known = None if asked.unsteered in missing else self.kept[asked.unsteered].figures
        bench, neuron = workbench(asked.setup, store), asked.neuron or 0  # at alpha 0 no neuron is amplified
        start = time.perf_counter()
        generator = answers(bench, neuron, asked.question, alphas, asked.max_new_tokens)
        for one, generation in zip(missing, generator.generations, strict=True):
            self.kept.pop(one, None)
            self.kept[one] = Answer(one, generation)
        for _ in generator:
            yield
        rows = answer_rows(bench, neuron, asked.question, alphas, generator.generations, unsteered=known)
        for one, figures in zip(missing, rows.to_dict("records"), strict=True):
            self.kept[one].figures = figures
        self.seconds[asked.setup] = time.perf_counter() - start
        self._forget()
        yield

    def settle(self, asked: Asked) -> None:
        """Remembers these answers, which are complete, as those that were shown last."""
        self.shown = [self.kept[one] for one in asked.due]

    def _forget(self) -> None:
        while len(self.kept) > _MOST_KEPT:
            del self.kept[next(iter(self.kept))]

    def row(self, asked: Asked, neuron: int) -> dict[str, Any]:
        """One answer as a row to collect: its text and its defined figures."""
        figures = self.kept[asked].figures
        assert figures is not None
        known = {name: value for name, value in figures.items() if name != "question_text" and pd.notna(value)}
        return {"kind": "sweep", "setup": asked.setup.name, "question": asked.question, **known, "neuron": neuron}


# ---- as HTML ----


def _words(text: str) -> list[str]:
    """The words of a text, each with the white space around it."""
    return re.findall(r"\s*\S+\s*", text)


def marked_changes(first: str, second: str) -> tuple[str, str]:
    """Both texts as HTML, with the words shaded that differ from the other text."""
    words = _words(first), _words(second)
    plain = [[word.strip() for word in side] for side in words]
    shown: tuple[list[str], list[str]] = ([], [])
    for tag, *ends in SequenceMatcher(None, plain[0], plain[1], autojunk=False).get_opcodes():
        for side, (start, end) in enumerate((ends[:2], ends[2:])):
            text = escape("".join(words[side][start:end]))
            shown[side].append(text if tag == "equal" or not text else f'<span class="ss {_CHANGED}">{text}</span>')
    return "".join(shown[0]), "".join(shown[1])


def _figures(answer: Answer) -> str:
    if (row := answer.figures) is None:
        return ""
    values = {name: number(float(row[name])) for name in FIGURES} | {"n_tokens": f"{row['n_tokens']:.0f}"}
    return figure_table((name, value, False) for name, value in values.items())


def _title(asked: Asked, names: Names) -> str:
    return COLUMNS["none"] if asked.neuron is None else f"{neuron_link(names[asked.neuron])} × {asked.alpha:g}"


def answers_html(asked: Asked, answers: Answers, names: Names) -> str:
    """Both answers side by side, with their figures once they are measured; `names` are those of the setup's neurons.

    Where an answer has no word yet, the one that stood in its place stays, dimmed and under its own title.
    """
    current = [answers.kept.get(one) for one in asked.due]
    shown: list[tuple[Answer | None, bool]] = []  # with whether it is an earlier one
    for place, answer in enumerate(current):
        started = answer is not None and (answer.text or answer.figures is not None)
        earlier = answers.shown[place] if place < len(answers.shown) else None
        shown.append((answer, False) if started or earlier is None else (earlier, True))
    texts = [escape("" if answer is None else answer.text) for answer, _ in shown]
    if len(shown) == 2 and answers.complete(asked):
        texts = list(marked_changes(*(answer.text for answer, _ in shown if answer is not None)))
    sections = []
    for due, text, (answer, earlier) in zip(asked.due, texts, shown, strict=True):
        title = _title(due if answer is None else answer.asked, names)
        cell = f'<p class="ss-text" dir="auto">{text}</p>'
        one = section(title, "none" if due.neuron is None else "add", cell, "" if answer is None else _figures(answer))
        sections.append(one.replace("<section>", '<section class="ss-stale">', 1) if earlier else one)
    return columns_html(sections)
