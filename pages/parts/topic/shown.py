"""What the page Topic shows, put together once a run."""

from dataclasses import dataclass

import pandas as pd

from core.catalog import Setup
from core.store.reader import Store
from core.text.prompts import Topic
from pages.parts.topic.output import Measured
from pages.shared.resources import ScoredIn

SHOWN_NEURONS = 200


@dataclass(frozen=True)
class Shown:
    """A topic scored in a setup, with what else is known of its neurons so far."""

    setup: Setup
    store: Store
    topic: Topic
    scored: ScoredIn
    cases: pd.DataFrame | None  # which neurons stand out; None until chance is measured
    output: pd.DataFrame | None  # output scores, if they were computed
    measured: Measured | None  # what takes the language model, once it was asked for

    @property
    def n_scored(self) -> int:
        return int(self.scored.scores.table["score"].notna().sum())

    @property
    def more(self) -> list[pd.DataFrame]:
        """Extra columns of the ranking, beside the scores."""
        tables = [] if self.cases is None else [self.cases]
        if self.output is not None:
            tables.append(self.output[["neuron", "output_score", "output_rank"]])
        if self.measured is not None:
            share = self.measured.strawman
            tables.append(pd.DataFrame({"neuron": range(len(share)), "strawman": share}))
        return tables

    def case_of(self, neuron: int) -> str:
        """The neuron's case; empty while chance is not measured."""
        return "" if self.cases is None else str(self.cases["case"].iloc[neuron])
