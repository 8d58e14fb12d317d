"""One question answered twice, unsteered and with one neuron amplified; streamed, and shown as HTML."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from core.results.names import NeuronName
from core.store.reader import Store
from pages.shared.charts.colours import EDITS
from pages.shared.columns import number
from pages.shared.glossary.index import TERMS, term_link
from pages.shared.names import neuron_link
from pages.shared.resources import workbench

if TYPE_CHECKING:  # imports torch, which is loaded when something is generated
    from core.catalog import Setup
    from core.steering.generated import Generation

FIGURES = ("perplexity", "distinct_2", "repetition", "confidence", "language_switch", "n_tokens")
_CHANGED = "ss-3"  # a step of the ramp on which text is readable in both themes


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, and the neuron and alpha with which it is answered."""

    setup: Setup
    fingerprint: str  # of the setup's store
    neuron: int
    alpha: float
    question: str
    max_new_tokens: int

    @property
    def alphas(self) -> tuple[float, ...]:
        return (0.0, self.alpha) if self.alpha else (0.0,)


@dataclass
class Amplified:
    """The two answers to a question, while and after they are generated."""

    asked: Asked
    generations: list[Generation] = field(default_factory=list)  # in the order of `Asked.alphas`
    rows: pd.DataFrame | None = None  # their figures and texts, when both are complete
    seconds: float = 0.0

    @classmethod
    def of_sweep(cls, asked: Asked, sweep: pd.DataFrame) -> Amplified | None:
        """The answers as a saved sweep of the neuron has them; None if it has no answer at that alpha."""
        rows = sweep[(sweep["question_text"] == asked.question) & sweep["alpha"].isin(asked.alphas)]
        return cls(asked, rows=rows.sort_values("alpha")) if len(rows) == len(asked.alphas) else None

    @property
    def texts(self) -> list[str]:
        """The answers so far, in the order of `Asked.alphas`."""
        if self.rows is not None:
            return [text.strip() for text in self.rows["text"]]
        return [generation.text.strip() for generation in self.generations]

    def run(self, store: Store) -> Iterator[None]:
        """Generates both answers side by side; yields after every token, and once more when they are measured.

        Raises:
            SteerscopeError: the setup cannot be loaded, the question cannot be asked, or the model's output overflows.
        """
        from core.sweep.run import answer_rows, answers

        asked = self.asked
        bench = workbench(asked.setup, store)
        start = time.perf_counter()
        generator = answers(bench, asked.neuron, asked.question, asked.alphas, asked.max_new_tokens)
        self.generations = generator.generations
        for _ in generator:
            yield
        self.rows = answer_rows(bench, asked.neuron, asked.question, asked.alphas, self.generations)
        self.seconds = time.perf_counter() - start
        yield

    def row(self, alpha: float) -> dict[str, Any]:
        """One answer as a row to collect: its text and its defined figures."""
        assert self.rows is not None
        line = self.rows[self.rows["alpha"] == alpha].iloc[0].drop("question_text").dropna()
        return {"kind": "sweep", "setup": self.asked.setup.name, "question": self.asked.question, **line}


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


def _figures(row: pd.Series | None) -> str:
    if row is None:
        return ""
    values = {name: number(float(row[name])) for name in FIGURES} | {"n_tokens": f"{row['n_tokens']:.0f}"}
    lines = [
        f"<tr><th>{term_link(name, TERMS[name].title)}</th><td>{value}</td></tr>" for name, value in values.items()
    ]
    return f'<table class="ss-figures">{"".join(lines)}</table>'


def _section(title: str, edit: str, text: str, row: pd.Series | None) -> str:
    return (
        f'<section><h3 style="border-color:{EDITS[edit]}">{title}</h3>'
        f'<div><p class="ss-text" dir="auto">{text}</p></div><div>{_figures(row)}</div></section>'
    )


def amplified_html(amplified: Amplified, name: NeuronName) -> str:
    """Both answers side by side as HTML, with their figures once they are measured; `name` is the neuron's."""
    asked = amplified.asked
    texts = amplified.texts
    rows = {} if amplified.rows is None else {row["alpha"]: row for _, row in amplified.rows.iterrows()}
    left, right = marked_changes(texts[0], texts[-1]) if texts else ("", "")
    sections = _section("Unsteered", "none", left, rows.get(0.0))
    if asked.alpha:
        sections += _section(f"{neuron_link(name)} × {asked.alpha:g}", "add", right, rows.get(asked.alpha))
    return f'<div class="ss-columns" style="--columns:{len(asked.alphas)}">{sections}</div>'
