"""The experiments that `python -m core evaluate` and the pages run: their names, modules and printed tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from core.errors import UsageError
from core.progress import Progress
from core.settings import GenerationSettings
from core.text.prompts import Topic, bundled_topics

if TYPE_CHECKING:  # slow to import
    import pandas as pd

    from core.results.app_store import AppStore
    from core.scoring.scorer import Scorer
    from core.steering.settings import SteeringSettings
    from core.steering.workbench import Workbench

ALL_TOPICS = "all"  # in place of a topic's name: the mean over topics
PROMPT_SETS = ("main", "aligned", "unaligned")  # prompts that texts continue; see `evaluation.text`
PAPER_COLUMNS = ("ft", "none", "sae", "clamp", "swap", "swap-shuffled")  # the paper's columns and a control
_AT_K = ("difference_4", "difference_16", "difference_64")  # of top-k tokens
SHARPNESSES, MULTIPLIERS = ("1.5", "2", "2.5", "3", "auto"), ("0.5", "1", "2")  # beside the paper's 1 and 10
SHUFFLED_SHARPNESSES = ("2", "3")  # of the controls with shuffled scores, the error kept
KEPT = "-keep-error"  # ends the name of a column that adds the SAE's error back
STRENGTH_COLUMNS = (  # how strongly swap and clamp steer
    *(name + kept for kept in ("", KEPT) for name in ("swap", *(f"swap-s{s}" for s in SHARPNESSES))),
    *(name + kept for kept in ("", KEPT) for name in (*(f"clamp-x{m}" for m in MULTIPLIERS), "clamp")),
    *("none", "sae", "prompt", "swap-shuffled", *(f"swap-shuffled-s{s}{KEPT}" for s in SHUFFLED_SHARPNESSES)),
)
TEXT_COLUMNS = (
    *PAPER_COLUMNS,
    *("weight", "prompt", "clamp-tuned", "random", "strawman", "output", "add", "vector"),
    *("swap-matched", "swap-in-reach", "swap-min-1", "swap-min-100"),
    *("clamp-tuned-keep-error", "clamp-tuned-1", "clamp-tuned-20"),
    *(name for name in STRENGTH_COLUMNS if name not in (*PAPER_COLUMNS, "prompt")),
)
COLUMN_GROUPS = {"paper": PAPER_COLUMNS, "strength": STRENGTH_COLUMNS, "all": TEXT_COLUMNS}


def _all_topics() -> tuple[Topic, ...]:
    return tuple(bundled_topics().values())


@dataclass(frozen=True)
class Unfinished:
    """What a stopped run kept of its work in the app's store, for the next run with the same settings to go on from."""

    results: AppStore
    setup: str
    what: str
    run: str  # see `run_key`

    def load(self) -> dict[str, pd.DataFrame]:
        return self.results.kept(self.setup, self.what, self.run)

    def keep(self, tables: Mapping[str, pd.DataFrame]) -> None:
        self.results.keep(self.setup, self.what, self.run, tables)

    def forget(self) -> None:
        self.results.forget(self.setup, self.what)


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions:
    """Options of all experiments; each experiment reads those that concern it."""

    topics: tuple[Topic, ...] = field(default_factory=_all_topics)
    n: int = 20  # prompts to continue per topic and column
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    steering: SteeringSettings | None = None  # None: the defaults
    seed: int = 0
    seeds: int = 1  # texts per prompt and column
    columns: tuple[str, ...] = PAPER_COLUMNS  # of the text experiment
    prompts: tuple[str, ...] = PROMPT_SETS
    keep: bool = False  # add the texts to those saved before, of other topics, prompts and columns
    also: tuple[Workbench, ...] = ()  # setups at other layers, steered at the same time in the text experiment
    dialogues: Path | None = None  # conversations to reconstruct; None: the bundled ones
    embedding: str | None = None  # the sentence-embedding model that the setup's is compared with
    judge: bool = False  # whether a judge rates every text; see `core.models.judge`
    saved: Callable[[str], pd.DataFrame | None] = lambda table: None  # looks up a result that the setup already has
    unfinished: Unfinished | None = None  # where an experiment of hours keeps what it has


class _Runs(Protocol):
    def run(
        self, workbench: Scorer, options: ExperimentOptions, progress: Progress = ...
    ) -> dict[str, pd.DataFrame]: ...


@dataclass(frozen=True)
class Printed:
    """A table that the command prints."""

    table: str
    title: str
    columns: tuple[str, ...] | None = None  # None: all columns
    overview: bool = False  # with several topics, print only the rows over all of them

    def of(self, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """The part of an experiment's tables that is printed."""
        table = tables[self.table]
        if self.overview and (table["topic"] == ALL_TOPICS).any():
            table = table[table["topic"] == ALL_TOPICS]
        return table[list(self.columns or table.columns)]


@dataclass(frozen=True)
class Experiment:
    """One experiment. Its module has a `run(workbench, options, progress)` that returns tables by name."""

    module: str
    title: str
    printed: tuple[Printed, ...]
    needs_model: bool = True  # whether it needs a `Workbench`; otherwise a `Scorer` suffices

    def run(
        self, workbench: Scorer, options: ExperimentOptions, progress: Progress = lambda stage, share: None
    ) -> dict[str, pd.DataFrame]:
        """Runs the experiment; returns its tables by the names they are saved under."""
        return cast(_Runs, import_module(self.module)).run(workbench, options, progress)


_CONTAMINATION = ("contamination", "contamination_share")

EXPERIMENTS: dict[str, Experiment] = {
    "text": Experiment(
        "core.evaluation.text",
        "Texts under each edit",
        (
            Printed(
                "text",
                "Means over continuations",
                ("topic", "prompts", "edit", "n", "distance", "topic_percentile", "perplexity", "accepted"),
                overview=True,
            ),
            Printed("text-pairs", "Differences paired by prompt, 95% bootstrap interval", overview=True),
        ),
    ),
    "cost": Experiment(
        "core.evaluation.cost",
        "Time that each way of steering takes",
        (
            Printed("cost", "Seconds, measured here and published (Topic Alignment paper, Table 3)"),
            Printed("cost-steps", "Seconds of each step, measured here and published (Table 4)"),
        ),
    ),
    "topk": Experiment(
        "core.evaluation.topk",
        "Top-k tokens",
        (
            Printed("topk-ahead", "Topics whose own text fires more on the k best neurons than unaligned text"),
            Printed(
                "topk-summary",
                "Area between the curves, and the difference at k; at 64 also dense neurons, and without them",
                ("topic", "area", "area_chance", *_AT_K, "dense_64", "difference_sparse_64"),
            ),
        ),
    ),
    "distributions": Experiment(
        "core.evaluation.distributions",
        "Distributions of scores",
        (Printed("distributions-agreement", "Kendall's tau between rankings, mean over topics (the paper: 0.741)"),),
    ),
    "coverage": Experiment(
        "core.evaluation.coverage",
        "Coverage of the neurons",
        (Printed("coverage-summary", "Share of neurons active in at least 1, and in more than 20, reference prompts"),),
        needs_model=False,
    ),
    "reference": Experiment(
        "core.evaluation.reference",
        "Smaller reference sets",
        (Printed("reference-size", "Smallest sets that rank the neurons like the whole set, by two rules"),),
        needs_model=False,
    ),
    "output": Experiment(
        "core.evaluation.output_score",
        "Output scores of all neurons",
        (Printed("output-best", "Neurons that move the next token most towards what they promote"),),
    ),
    "layer": Experiment(
        "core.evaluation.layer",
        "Layer output under each edit",
        (
            Printed(
                "layer",
                "Means over prompts; reconstruction delta: below 0 is closer to the original than the SAE",
                ("topic", "edit", "set", "neurons_changed", "reconstruction_delta", *_CONTAMINATION, "correlation"),
            ),
            Printed("layer-contrasts", "Differences paired by topic, 95% bootstrap interval"),
        ),
    ),
    "distances": Experiment(
        "core.evaluation.distances",
        "Distances within and between topics",
        (Printed("distances", "Mean distance of a topic's prompts from each other (intra) and from others' (inter)"),),
        needs_model=False,
    ),
    "embedding": Experiment(
        "core.evaluation.embedding",
        "Another sentence-embedding model",
        (Printed("embedding", "Kendall's tau between the rankings by the setup's model and by the other one"),),
        needs_model=False,
    ),
    "cases": Experiment(
        "core.evaluation.cases",
        "Cases by chance, checked",
        (
            Printed("cases-alarms", "Share of 200 meaningless topics that show any neuron of a case"),
            Printed("cases-held-out", "Neurons aligned by half of a topic's prompts: share of tokens with any of them"),
        ),
    ),
    "few": Experiment(
        "core.evaluation.few",
        "Few examples, and what texts tell of them",
        (
            Printed(
                "few",
                "Means by the number of prompts given; exposure above 0: the model shows which prompts it was given",
                ("given", "edit", "n", "topic_percentile", "perplexity", "distinct_2", "copied", "exposure"),
            ),
        ),
    ),
    "example": Experiment(
        "core.evaluation.example",
        "The comparison that the page Generate opens with",
        (Printed("example", "Texts", ("edit", "text", "topic_percentile", "perplexity")),),
    ),
    "reconstruction": Experiment(
        "core.evaluation.reconstruction",
        "Reconstruction of conversations",
        (
            Printed("reconstruction", "Squared error by kind of token; log2 as in the FAST paper's tables"),
            Printed("reconstruction-figures", "Other figures of the SAE on these conversations"),
            Printed("reconstruction-edits", "Squared error under each edit, mean over topics", overview=True),
        ),
    ),
    "inspected": Experiment(
        "core.evaluation.inspected",
        "The text that the page My text opens with",
        (Printed("inspected-tokens", "Its tokens", ("token", "special")),),
    ),
    "special": Experiment(
        "core.evaluation.special",
        "Special tokens",
        (Printed("special-top", "Neurons most active on each token of the chat template, index:value (FAST, F.3)"),),
    ),
}


def split_names(names: str) -> tuple[str, ...]:
    """The names in a comma-separated list, without empty ones."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def find_experiments(names: str) -> dict[str, Experiment]:
    """The experiments in a comma-separated list of names, by name.

    Raises:
        UsageError: a name is unknown, or there is none.
    """
    wanted = split_names(names)
    if unknown := [name for name in wanted or (names,) if name not in EXPERIMENTS]:
        raise UsageError(f"no experiment '{unknown[0]}'; there are {', '.join(EXPERIMENTS)}")
    return {name: EXPERIMENTS[name] for name in wanted}
