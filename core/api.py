"""What a researcher needs from Python, in one place; the commands and the pages use the same.

from core.api import cases, generate, inspect, open_setup, score, sweep

bench = open_setup("smollm2")
scored = score(bench, "heart surgery")
scored.scores.ranked(10)                                    # the neurons closest to the topic
cases(bench, scored)                                        # which of them stand out beyond chance
generate(bench, "My heart is broken, so I should", scored)  # the text under each way of steering
inspect(bench, "The surgeon washed her hands.", scored).neurons
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from core.catalog import find_setup
from core.inspection import Inspection, Messages, inspect_text
from core.progress import Progress
from core.results.app_store import AppStore
from core.scoring.scorer import ScoredTopic, Scorer, open_scorer
from core.settings import GenerationSettings, ScoreSettings, store_root
from core.steering.settings import SteeringSettings
from core.steering.workbench import Column, Workbench, across_layers, open_workbench
from core.store.reader import Store
from core.sweep.request import SweepSettings
from core.sweep.run import Measure, run_sweep
from core.text.prompts import Topic, find_topic

DEFAULT_EDITS = ("none", "sae", "clamp", "swap")

__all__ = [
    "Column",
    "GenerationSettings",
    "Inspection",
    "Messages",
    "ScoreSettings",
    "ScoredTopic",
    "Scorer",
    "SteeringSettings",
    "SweepSettings",
    "Topic",
    "Workbench",
    "cases",
    "generate",
    "inspect",
    "open_setup",
    "open_topics",
    "score",
    "sweep",
]


def open_setup(name: str, *, store: Path | None = None, beside: Workbench | None = None) -> Workbench:
    """A setup with its store, language model, SAE and embedding model, ready to score, steer and measure.

    Args:
        name: as `python -m core setups` lists them.
        store: folder of the stores; by default `$STEERSCOPE_STORE`, else `data/store`.
        beside: an open setup of the same language model, which then serves both.

    Raises:
        UnknownSetupError: no such setup.
        StoreNotBuiltError, StoreSchemaError, StoreDamagedError: its store; build it with `python -m core build NAME`.
        ModelFolderError, AutoencoderError, UnsafeWeightsError, HubError, EmbeddingModelError: what it needs to run.
        UsageError: `beside` is of another model.
    """
    setup = find_setup(name)
    return open_workbench(setup, Store.open(store_root(store), setup.name), beside=beside)


def open_topics(name: str, *, store: Path | None = None) -> Scorer:
    """A setup with its store and embedding model alone: enough to score topics, and quick to open.

    Raises:
        UnknownSetupError, StoreNotBuiltError, StoreSchemaError, StoreDamagedError, EmbeddingModelError: see
            `open_setup`.
    """
    setup = find_setup(name)
    return open_scorer(setup, Store.open(store_root(store), setup.name))


def score(bench: Scorer, topic: str | Topic, settings: ScoreSettings | None = None) -> ScoredTopic:
    """Every neuron's score for a topic (Topic Alignment paper, section 3.1).

    Args:
        topic: the name of a bundled topic, any text (a prompt a line), or a `Topic`.

    Raises:
        EmptyTopicError, TopicTooLongError, ScoringError: a topic that cannot be scored.
    """
    return bench.score(find_topic(topic) if isinstance(topic, str) else topic, settings)


def cases(bench: Scorer, scored: ScoredTopic, progress: Progress = lambda stage, share: None) -> pd.DataFrame:
    """Which neurons stand out for the topic beyond chance; the number that are 'aligned' says whether it is carried.

    The first call for a number of prompts measures what topics of random words show: seconds. It is kept afterwards.

    Returns:
        One row per neuron: neuron, z, p, case; see `core.scoring.chance.Chance.cases`.
    """
    return bench.cases(scored, progress)


def generate(
    bench: Workbench,
    prompts: str | Sequence[str],
    scored: ScoredTopic | None = None,
    *,
    edits: Sequence[str] = DEFAULT_EDITS,
    steering: SteeringSettings | None = None,
    generation: GenerationSettings | None = None,
    also: Mapping[Workbench, ScoredTopic | None] | None = None,
) -> list[Column]:
    """Continues prompts under each way of steering, with the figures of every text.

    Args:
        scored: the topic that clamp, swap and weight steer towards, and that distances are measured from.
        edits: ways of steering by name: none, sae, clamp, swap, weight, add, vector, prompt; `swap+add` is both.
        also: setups at other layers of the same model that steer at the same time, with the topic as each scores it.

    Returns:
        One column an entry of `edits`: a generation and its figures for each prompt.

    Raises:
        EditError: an unknown way, or one that needs a topic where there is none.
        PromptTooLongError, UsageError: what cannot be generated.
    """
    benches, scores = [bench, *(also or {})], [scored, *(also or {}).values()]
    ways = [across_layers(benches, name, scores, steering or SteeringSettings()) for name in edits]
    texts = [prompts] if isinstance(prompts, str) else prompts
    return bench.columns(ways, texts, scored, generation or GenerationSettings())


def inspect(bench: Workbench, text: str | Messages, scored: ScoredTopic | None = None) -> Inspection:
    """What fires on a text, or on a chat's messages, token by token; see `core.inspection.inspect_text`."""
    return inspect_text(bench, text, scored)


def sweep(
    bench: Workbench,
    neuron: int,
    settings: SweepSettings | None = None,
    *,
    resume: bool = True,
    measures: Mapping[str, Measure] | None = None,
    progress: Progress = lambda stage, share: None,
) -> pd.DataFrame:
    """Answers questions with one neuron amplified by each alpha; a row an answer (FAST paper, section 6).

    Rows are saved question by question, beside the setup's store, so that a sweep that was stopped continues; see
    `core.sweep.run.run_sweep`.
    """
    results, setup = AppStore(bench.store.path.parents[1]), bench.store.meta["name"]
    chosen = settings or SweepSettings()
    return run_sweep(bench, neuron, chosen, results, setup, resume=resume, measures=measures, progress=progress)
