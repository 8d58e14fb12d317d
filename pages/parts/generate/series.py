"""The same comparison with several seeds, so that its figures have intervals. Kept in the session."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from core.results.statistics import Interval, bootstrap_mean, paired_difference
from core.store.reader import Store
from pages.shared.comparison import Comparison, Layer, Request
from pages.shared.resources import ScoredIn

MAX_SEEDS = 20
MIN_SEEDS = 5  # for a best column: of fewer differences, an interval says too little


@dataclass
class Series:
    """The comparisons of one request, one after the other for each of its seeds."""

    request: Request
    runs: list[Comparison] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request, last: Series | None) -> Series:
        """A series that goes on with the complete seeds of the last one, if it asks for more seeds and nothing else."""
        if last is None or replace(last.request, n_seeds=request.n_seeds) != request:
            return cls(request)
        return cls(request, last.complete if len(last.complete) < request.n_seeds else [])

    def run(self, store: Store, scored: ScoredIn, also: Sequence[Layer] = ()) -> Iterator[None]:
        """Generates the seeds that are missing; yields like `Comparison.run`, which see."""
        for number in range(len(self.runs), self.request.n_seeds):
            like = self.runs[0] if self.runs else None
            self.runs.append(Comparison(self.request.of_seed(number)))
            yield from self.runs[-1].run(store, scored, also, like)

    @property
    def complete(self) -> list[Comparison]:
        """The comparisons that are complete."""
        return [run for run in self.runs if run.complete]

    @property
    def seconds(self) -> float:
        """Of generating one new token in one column, without loading; 0 if none was."""
        made = [len(c.generation.ids) for run in self.runs if run.seconds for c in run.columns if c.generation]
        return sum(run.seconds for run in self.runs) / sum(made) if sum(made) else 0.0

    def values(self, edit: str, figure: str) -> list[float]:
        """A figure of one column, of every seed that is measured; NaN where it is not defined."""
        columns = [column for run in self.runs for column in run.columns if column.edit == edit and column.figures]
        return [column.figures[figure] for column in columns]

    def interval(self, edit: str, figure: str) -> Interval:
        """Mean of a figure over the seeds, with its 95% interval."""
        return bootstrap_mean(self.values(edit, figure))

    def best(self, figure: str, better: str | None) -> str | None:
        """The column that is better than every other one, by the interval of their difference over the same seeds.

        None where two columns cannot be told apart, where fewer than `MIN_SEEDS` seeds are complete, or where neither
        direction is better.
        """
        known = {edit: values for edit in self.request.edits if (values := self._complete_values(edit, figure))}
        if better is None or len(known) < 2 or len(self.complete) < MIN_SEEDS:
            return None
        sign = 1.0 if better == "low" else -1.0
        best = min(known, key=lambda edit: sign * math.fsum(known[edit]))
        for edit, values in known.items():
            if (
                edit != best
                and not paired_difference([sign * v for v in values], [sign * v for v in known[best]]).low > 0
            ):
                return None
        return best

    def _complete_values(self, edit: str, figure: str) -> list[float]:
        """A figure of one column for every complete seed; empty if it is not defined for one of them."""
        columns = [column for run in self.complete for column in run.columns if column.edit == edit]
        values = [column.figures.get(figure, math.nan) for column in columns]
        return values if all(map(math.isfinite, values)) else []
