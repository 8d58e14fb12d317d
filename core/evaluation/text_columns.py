"""The columns of the text experiment: the paper's ways of steering, its fine-tuning baseline, and controls.

Where the paper gives no strength (the alpha of a vector, the multiplier of a baseline's clamp), a column gets the one
that does best on `tuning_prompts`, which are never reported. AxBench does the same (Wu et al. 2025, arXiv:2501.17148).

Each of `VARIANTS` differs from another column in one choice that the paper leaves open, so that the two are compared in
pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from core.build.activations import token_activations
from core.errors import UsageError
from core.evaluation.experiments import (
    COLUMN_GROUPS,
    KEPT,
    MULTIPLIERS,
    SHARPNESSES,
    SHUFFLED_SHARPNESSES,
    TEXT_COLUMNS,
)
from core.scoring.scorer import ScoredTopic
from core.scoring.scores import strawman
from core.scoring.sharpness import parse_sharpness
from core.settings import GenerationSettings, ScoreSettings
from core.steering.edits import make_edit
from core.steering.metrics import concept_score, fluency_score, harmonic_mean
from core.steering.settings import SteeringSettings
from core.steering.ways import Way
from core.steering.workbench import Workbench, across_layers
from core.text.prompts import unaligned_prompts
from core.training.finetuning import Finetuned, finetune

FT, NONE, SHUFFLED = "ft", "none", "swap-shuffled"
CLAMPED = ("clamp-tuned", "random", "strawman", "output")  # each clamps n neurons; they differ in which ones
_MULTIPLIERS = (0.5, 1.0, 2.0, 5.0, 10.0)  # times the neuron's largest reference activation
_ALPHAS = (0.5, 1.0, 2.0, 4.0, 8.0)  # times the difference in means
TUNED: Mapping[str, tuple[float, ...]] = {**dict.fromkeys((*CLAMPED, "add"), _MULTIPLIERS), "vector": _ALPHAS}


@dataclass(frozen=True)
class Variant:
    """A column that differs from another in one choice."""

    of: str
    steering: Mapping[str, object] = field(default_factory=dict)  # fields of `SteeringSettings`
    min_prompts: int | None = None  # of `ScoreSettings`


def _sharpness(text: str) -> dict[str, object]:
    return {"sharpness": parse_sharpness(text)}


_STRENGTHS = {
    "swap-keep-error": Variant("swap", {"keep_error": True}),
    "clamp-keep-error": Variant("clamp", {"keep_error": True}),
    **{f"swap-s{s}": Variant("swap", _sharpness(s)) for s in SHARPNESSES},
    **{f"swap-s{s}{KEPT}": Variant("swap", _sharpness(s) | {"keep_error": True}) for s in SHARPNESSES},
    **{f"clamp-x{m}": Variant("clamp", {"multiplier": float(m)}) for m in MULTIPLIERS},
    **{f"clamp-x{m}{KEPT}": Variant("clamp", {"multiplier": float(m), "keep_error": True}) for m in MULTIPLIERS},
    **{
        f"swap-shuffled-s{s}{KEPT}": Variant("swap-shuffled", _sharpness(s) | {"keep_error": True})
        for s in SHUFFLED_SHARPNESSES
    },
}
VARIANTS: Mapping[str, Variant] = {
    "swap-matched": Variant("swap", {"matched_count": True}),
    "swap-in-reach": Variant("swap", {"reach": 0.6}),
    "swap-min-1": Variant("swap", min_prompts=1),
    "swap-min-100": Variant("swap", min_prompts=100),
    "clamp-tuned-keep-error": Variant("clamp-tuned", {"keep_error": True}),
    "clamp-tuned-1": Variant("clamp-tuned", {"n": 1}),
    "clamp-tuned-20": Variant("clamp-tuned", {"n": 20}),
    **_STRENGTHS,
}
TRIAL_COLUMNS = ("topic", "topic_prompts", "edit", "strength", "concept", "fluency", "concept_fluency", "chosen")
N_REPORTED = 20  # unaligned prompts that may be reported; strengths are chosen on the ones after them
N_TUNING = 8
OUTPUT_POOL = 0.05  # `output` takes the largest output scores among this share of the best-scored neurons
_TUNING_SEED = 10_000  # far from the seeds that are reported


def tuning_prompts() -> list[str]:
    """The prompts on which strengths are chosen: unaligned prompts that no table reports."""
    return unaligned_prompts()[N_REPORTED : N_REPORTED + N_TUNING]


def check_columns(names: Sequence[str]) -> tuple[str, ...]:
    """The columns asked for, each once. The unsteered one is always included, as others are measured against it.

    Args:
        names: of columns, or of `COLUMN_GROUPS`.

    Raises:
        UsageError: a name is unknown.
    """
    names = [column for name in names for column in COLUMN_GROUPS.get(name, (name,))]
    if unknown := [name for name in names if name not in TEXT_COLUMNS]:
        raise UsageError(f"no column '{unknown[0]}'; there are {', '.join((*COLUMN_GROUPS, *TEXT_COLUMNS))}")
    return tuple(dict.fromkeys(names if NONE in names else (NONE, *names)))


def shuffled_scores(score: Float[np.ndarray, "d_sae"], seed: int) -> Float[np.ndarray, "d_sae"]:
    """The scores permuted among the neurons that have one; the others stay 0."""
    scored = np.flatnonzero(score)
    out = np.zeros_like(score)
    out[scored] = np.random.default_rng(seed).permutation(score[scored])
    return out


def _shuffled(scored: ScoredTopic, seed: int) -> ScoredTopic:
    """The topic with its scores permuted among the scored neurons."""
    table = scored.scores.table
    score = table["score"].mask(table["score"].notna(), shuffled_scores(scored.scores.steering_vector(), seed))
    return replace(scored, scores=replace(scored.scores, table=table.assign(score=score)))


def best_by_output(ranked: pd.DataFrame, output: pd.DataFrame, n: int) -> list[int]:
    """The n neurons with the largest output scores among the best-scored ones (`OUTPUT_POOL`, at least n).

    Ties go to the better score.

    Args:
        ranked: the scored neurons, best first.
        output: columns neuron and output_score; neurons that never fire have no row.
    """
    pool = ranked.head(max(n, math.ceil(OUTPUT_POOL * len(ranked))))[["neuron"]]
    known = pool.merge(output[["neuron", "output_score"]], on="neuron")
    return [int(i) for i in known.sort_values("output_score", ascending=False, kind="stable").head(n)["neuron"]]


@dataclass(kw_only=True)
class TopicColumns:
    """The columns of one topic: the edit that each makes, and its strength."""

    bench: Workbench
    scored: ScoredTopic
    also: Sequence[Workbench] = ()  # setups at other layers of the model, steered at the same time
    steering: SteeringSettings
    generation: GenerationSettings
    output: pd.DataFrame | None = None  # columns neuron and output_score; needed by the column `output`
    strengths: dict[str, float] = field(default_factory=dict)  # chosen so far, by column
    trials: list[dict[str, object]] = field(default_factory=list)  # every strength tried
    progress: Callable[[float], None] = lambda share: None  # told of fine-tuning, which takes long

    @cached_property
    def finetuned(self) -> Finetuned:
        """The model fine-tuned on the topic's prompts."""
        return finetune(self.bench.model, self.scored.topic.prompts, progress=lambda share: self.progress(share))

    @property
    def seed(self) -> int:
        return self.generation.seed

    def way(self, name: str) -> Way:
        """The column's way of steering, with the strength chosen for it if it is one of `TUNED`."""
        if name == FT:
            return Way(FT)  # no edit: the model itself is another
        if name in VARIANTS:
            return replace(self._variant(name), name=name)
        if name == SHUFFLED:
            return replace(self._across("swap", [_shuffled(scored, self.seed) for scored in self._scored]), name=name)
        if name in TUNED:
            if name not in self.strengths:
                self.strengths[name] = self._choose_strength(name)
            return self.at_strength(name, self.strengths[name])
        return self._across(name, self._scored)

    def _across(self, name: str, scored: Sequence[ScoredTopic]) -> Way:
        """The edit at every layer that is steered."""
        return across_layers([self.bench, *self.also], name, scored, self.steering)

    @cached_property
    def _scored(self) -> list[ScoredTopic]:
        """The topic as scored with each layer's SAE."""
        return [self.scored, *(bench.score(self.scored.topic) for bench in self.also)]

    def _variant(self, name: str) -> Way:
        variant = VARIANTS[name]
        scored = self.scored
        if variant.min_prompts is not None:
            scored = self.bench.score(scored.topic, ScoreSettings(min_prompts=variant.min_prompts))
        steering = replace(self.steering, **variant.steering)  # type: ignore[arg-type]
        columns = replace(self, scored=scored, steering=steering, strengths={}, trials=[])
        if name in self.strengths:
            columns.strengths[variant.of] = self.strengths[name]
        way = columns.way(variant.of)
        if variant.of in columns.strengths:
            self.strengths[name] = columns.strengths[variant.of]
        self.trials += [trial | {"edit": name} for trial in columns.trials]
        return way

    def at_strength(self, name: str, strength: float) -> Way:
        """A column of `TUNED` at one strength."""
        if name == "vector":
            return self.bench.way(name, self.scored, replace(self.steering, vector_alpha=strength))
        if name == "add":
            reference = self.bench.store.reference_max()
            alphas = tuple((int(i), strength * float(reference[i])) for i in self.neurons(name))
            return self.bench.way(name, self.scored, replace(self.steering, alphas=alphas))
        chosen = np.zeros(self.bench.sae.d_sae, dtype=np.float32)
        chosen[self.neurons(name)] = 1.0
        edit = make_edit(
            "clamp",
            self.bench.sae,
            score=chosen,
            reference_max=self.bench.store.reference_max(),
            keep_error=self.steering.keep_error,
            n=self.steering.n,
            multiplier=strength,
            current=self.steering.current,
        )
        return Way.of(edit, self.steering.positions, name)

    def neurons(self, name: str) -> list[int] | Int[np.ndarray, "n"]:
        """The neurons that a column forces; for `clamp-tuned` and `add`, the best-scored ones."""
        ranked, n = self.scored.scores.ranked(), self.steering.n
        if name == "random":
            return np.random.default_rng(self.seed).choice(ranked["neuron"].to_numpy(), n, replace=False)
        if name == "strawman":
            return np.argsort(-self._firing, kind="stable")[:n]
        if name == "output":
            assert self.output is not None
            return best_by_output(ranked, self.output, n)
        return [int(i) for i in ranked["neuron"].head(n)]

    @cached_property
    def _firing(self) -> Float[np.ndarray, "d_sae"]:
        model = self.bench.model
        prompts = self.scored.topic.prompts
        return strawman(
            token_activations(model, self.bench.sae, prompts, max_length=model.n_context), self.bench.sae.d_sae
        )

    def _choose_strength(self, name: str) -> float:
        """The strength with the largest mean `concept_fluency` on the tuning prompts; ties go to the smaller."""
        prompts, strengths = tuning_prompts(), TUNED[name]
        ways = [self.bench.way(NONE, None, self.steering), *(self.at_strength(name, s) for s in strengths)]
        settings = replace(self.generation, seed=_TUNING_SEED)
        rows = self.bench.together(ways, prompts, self.scored, settings, measure=False, keep_going=True).finish()
        figures = pd.DataFrame(self.bench.figures(rows, self.scored))
        figures["strength"] = np.repeat([0.0, *strengths], len(prompts))
        scores = steering_scores(figures, figures[figures["strength"] == 0]).fillna(0.0)  # an empty text counts as 0
        means = scores.groupby(figures["strength"]).mean().loc[list(strengths)]
        best = float(means["concept_fluency"].idxmax())
        self.trials += [
            {"topic": self.scored.topic.name, "edit": name, **row, "chosen": strength == best}
            for strength, row in zip(strengths, means.reset_index().to_dict("records"), strict=True)
        ]
        return best


def steering_scores(figures: pd.DataFrame, unsteered: pd.DataFrame) -> pd.DataFrame:
    """Concept, fluency and their harmonic mean `concept_fluency`, each 0 to 2 as in AxBench, one row per text.

    Args:
        figures: topic_percentile, perplexity, distinct_2 of each text.
        unsteered: the same figures of unsteered continuations of the same prompts.
    """
    usual = unsteered[["perplexity", "distinct_2"]].median()
    concept = [concept_score(p) for p in figures["topic_percentile"]]
    fluency = [
        fluency_score(p, d, usual["perplexity"], usual["distinct_2"])
        for p, d in zip(figures["perplexity"], figures["distinct_2"], strict=True)
    ]
    both = [harmonic_mean(c, f) for c, f in zip(concept, fluency, strict=True)]
    return pd.DataFrame({"concept": concept, "fluency": fluency, "concept_fluency": both}, index=figures.index)
