"""What each way of steering does to text, topic by topic (Topic Alignment paper, 4.3 and A.5; Tables 2, 7 and 8).

Every prompt is continued once per column and seed, with the same seeds in every column, so that columns are compared in
pairs. All figures are over the continuation alone. Texts of one prompt are not independent: means and their intervals
are over prompts, each represented by the mean over its seeds.

There are three sets of prompts: `main` (the paper's metaphors for the topics that have them, else openings that fit any
topic), `aligned` (every second prompt of the topic itself) and `unaligned` (requests about none of the topics). The
aligned prompts are held out: for them the topic is its other prompts, to score, to fine-tune on and to measure by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, product

import numpy as np
import pandas as pd

from core.errors import UsageError
from core.evaluation.experiments import PROMPT_SETS, ExperimentOptions
from core.evaluation.text_columns import (
    FT,
    N_REPORTED,
    NONE,
    TRIAL_COLUMNS,
    TopicColumns,
    check_columns,
    steering_scores,
)
from core.evaluation.text_tables import FIGURES, KEYS, compare, summarise, with_saved
from core.models.acceptability import ACCEPTED, load_acceptability
from core.models.judge import Rating, judge_from_environment
from core.progress import Progress
from core.results.published import published
from core.steering.generated import Generation
from core.steering.metrics import distinct_n, harmonic_mean, language_switch
from core.steering.settings import SteeringSettings
from core.steering.ways import Way
from core.steering.workbench import Workbench
from core.text.prompts import Topic, continuations, unaligned_prompts

_TRAINING_PART = 0.5  # share of the time of the column FT that its training takes, for the progress bar


@dataclass(frozen=True)
class PromptSet:
    """Prompts to continue, and the topic that the continuations are steered towards and measured by."""

    name: str  # in the tables: metaphors, continuations, aligned or unaligned
    prompts: list[str]
    topic: Topic


def prompt_sets(topic: Topic, names: Sequence[str], n: int) -> list[PromptSet]:
    """The prompts to continue, at most `n` per set; `main` is called after what it contains.

    Raises:
        UsageError: a set is unknown, or none is named; or the topic has too few prompts to hold half of them out.
    """
    if not names:
        raise UsageError(f"no prompts to continue; there are {', '.join(PROMPT_SETS)}")
    metaphors = published("metaphors")
    own = metaphors.loc[metaphors["topic"] == topic.name, "prompt"].tolist()
    sets = []
    for name in names:
        match name:
            case "main":
                sets.append(PromptSet("metaphors" if own else "continuations", (own or continuations())[:n], topic))
            case "aligned":
                shown, held_out = halves(topic)
                sets.append(PromptSet(name, held_out[:n], shown))
            case "unaligned":
                sets.append(PromptSet(name, unaligned_prompts()[: min(n, N_REPORTED)], topic))
            case _:
                raise UsageError(f"no prompts '{name}'; there are {', '.join(PROMPT_SETS)}")
    return sorted(sets, key=lambda each: each.topic != topic)  # a topic's sets together: it is fine-tuned once


def halves(topic: Topic) -> tuple[Topic, list[str]]:
    """The topic with every second prompt taken out, and those prompts.

    Raises:
        UsageError: the topic has fewer than two prompts.
    """
    if len(topic.prompts) < 2:
        raise UsageError(
            f"the topic '{topic.title}' has one prompt, and aligned prompts are half of a topic's, held out: give it "
            "more lines, or leave aligned out (--prompts main,unaligned)"
        )
    return replace(topic, prompts=topic.prompts[::2]), list(topic.prompts[1::2])


class _Texts:
    """Generates and measures the continuations of every topic; unsteered ones are generated once for all topics."""

    def __init__(self, bench: Workbench, options: ExperimentOptions, output: pd.DataFrame | None) -> None:
        self.bench, self.options, self.output = bench, options, output
        self.acceptability = load_acceptability()
        self.unsteered: dict[tuple[str, ...], list[Generation]] = {}

    def of_topic(
        self, topic: Topic, names: Sequence[str], progress: Progress
    ) -> tuple[pd.DataFrame, list[dict[str, object]]]:
        """Every column of every set of prompts of a topic, and the strengths tried."""
        options, stage = self.options, ""
        sets = prompt_sets(topic, options.prompts, options.n)
        parts: list[pd.DataFrame] = []
        trials: list[dict[str, object]] = []

        def report(share: float) -> None:
            progress(stage, (len(parts) + share) / (len(sets) * len(names)))

        for shown, own in groupby(sets, key=lambda each: each.topic):
            columns = TopicColumns(
                bench=self.bench,
                scored=self.bench.score(shown),
                also=options.also,
                steering=options.steering or SteeringSettings(),
                generation=options.generation,
                output=self.output,
            )
            for each, name in product(own, names):
                stage = f"{topic.title}, {each.name}, {name}"
                report(0.0)
                parts.append(self.column(columns, name, each.prompts, report).assign(prompts=each.name))
            trials += [trial | {"topic_prompts": len(shown.prompts)} for trial in columns.trials]
        return pd.concat(parts, ignore_index=True), trials

    def column(
        self, columns: TopicColumns, name: str, prompts: Sequence[str], progress: Callable[[float], None]
    ) -> pd.DataFrame:
        """One row per prompt and seed: the continuation and its figures.

        Args:
            progress: called after every token with the share that is done, 0 to 1.
        """
        columns.progress = lambda share: progress(_TRAINING_PART * share)
        way = columns.way(name)
        made = self._written(columns, way, list(prompts) * self.options.seeds, progress)
        texts, ids = [g.text for g in made], [g.ids for g in made]
        if self.acceptability is None:
            probability = np.full(len(made), np.nan)
        else:
            probability = self.acceptability.probabilities(texts)
        return pd.DataFrame(self.bench.figures(made, columns.scored)).assign(
            accepted=np.where(np.isnan(probability), np.nan, probability >= ACCEPTED),
            acceptability=probability,
            distinct_3=[distinct_n(i, 3) for i in ids],
            language_switch=[language_switch(g.text, g.prompt) for g in made],
            confidence=[g.confidence for g in made],
            topic=columns.scored.topic.name,
            edit=name,
            strength=columns.strengths.get(name, np.nan),
            prompt=[g.prompt for g in made],
            seed=np.arange(len(made)) + self.options.generation.seed,
            text=texts,
        )

    def _written(
        self, columns: TopicColumns, way: Way, prompts: Sequence[str], progress: Callable[[float], None]
    ) -> list[Generation]:
        """The continuations; row i uses the i-th seed after the first. A row whose output overflows ends early."""
        key = tuple(prompts) if way.name == NONE else ()
        if key in self.unsteered:
            return self.unsteered[key]
        bench, before = self.bench, 0.0
        if way.name == FT:
            bench = Workbench(bench.store, bench.embedding_model, columns.finetuned.model, bench.sae)
            before = _TRAINING_PART
        generator = bench.together([way], prompts, columns.scored, self.options.generation, keep_going=True)
        for done, _ in enumerate(generator, start=1):
            progress(before + (1 - before) * done / self.options.generation.max_new_tokens)
        if key:
            self.unsteered[key] = generator.generations
        return generator.generations


def write_texts(
    bench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Generates and measures every continuation.

    Returns:
        The continuations with their figures, and every strength that was tried.

    Raises:
        UsageError: a column or set of prompts is unknown, or a column needs an experiment that has not been run.
        PromptTooLongError: a prompt leaves no room for new tokens in the model's context.
    """
    names = check_columns(options.columns)
    if options.judge:
        judge_from_environment()  # fails now rather than after an hour
    output = options.saved("output")
    if "output" in names and output is None:
        raise UsageError(
            "the column 'output' needs output scores; run first: python -m core evaluate SETUP --what output"
        )
    for topic in options.topics:
        prompt_sets(topic, options.prompts, options.n)  # what cannot be written fails now
    texts, (parts, trials) = _Texts(bench, options, output), _finished_topics(options)
    finished = {name for part in parts for name in part["topic"]}
    for number, topic in enumerate(options.topics):
        if topic.name in finished:
            continue
        rows, tried = texts.of_topic(topic, names, partial(_within, progress, number, len(options.topics)))
        parts.append(rows)
        trials += tried
        if options.unfinished:
            options.unfinished.keep({"rows": pd.concat(parts, ignore_index=True), "trials": _trial_table(trials)})
    rows = _judged(pd.concat(parts, ignore_index=True), options, progress)
    return _with_steering_scores(rows), _trial_table(trials)


def _finished_topics(options: ExperimentOptions) -> tuple[list[pd.DataFrame], list[dict[str, object]]]:
    """The texts and the strengths tried of the topics that a stopped run finished."""
    kept = options.unfinished.load() if options.unfinished else {}
    return ([kept["rows"]], kept["trials"].to_dict("records")) if kept else ([], [])


def _trial_table(trials: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(trials, columns=[*TRIAL_COLUMNS])


def _within(progress: Progress, number: int, n: int, stage: str, share: float) -> None:
    """Reports the progress of one part of n."""
    progress(stage, (number + share) / n)


def _judged(rows: pd.DataFrame, options: ExperimentOptions, progress: Progress) -> pd.DataFrame:
    """Adds the judge's three ratings of every text and their harmonic mean, as in AxBench, if a judge was asked for."""
    ratings = [Rating()] * len(rows)
    if options.judge:
        titles = {topic.name: topic.title for topic in options.topics}
        texts = list(zip(rows["topic"].map(titles), rows["prompt"], rows["text"], strict=True))
        ratings = judge_from_environment().rate_all(texts, lambda share: progress("judging", share))
    concept, instruction, fluency = zip(*((r.concept, r.instruction, r.fluency) for r in ratings), strict=True)
    judged = [harmonic_mean(r.concept, r.instruction, r.fluency) for r in ratings]
    return rows.assign(judged_concept=concept, judged_instruction=instruction, judged_fluency=fluency, judged=judged)


def _with_steering_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds concept, fluency and their harmonic mean, relative to the unsteered texts of the same topic and prompts."""
    scores = [steering_scores(part, part[part["edit"] == NONE]) for _, part in rows.groupby(["topic", "prompts"])]
    rows = rows.join(pd.concat(scores))
    return rows[[*KEYS, "strength", "prompt", "seed", "text", *FIGURES]]


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `text` (means), `text-pairs`, `text-rows` (every text), `text-strengths` and `text-run` (its time)."""
    start, known = time.perf_counter(), sum(len(part) for part in _finished_topics(options)[0])
    rows, trials = write_texts(workbench, options, progress)
    took = {
        "texts": len(rows) - known,
        "tokens": options.generation.max_new_tokens,
        "seconds": time.perf_counter() - start,
    }
    if options.keep:
        rows = with_saved(rows, options.saved("text-rows"))
    tables = {"text": summarise(rows), "text-pairs": compare(rows), "text-rows": rows, "text-strengths": trials}
    return {**tables, "text-run": pd.DataFrame([took])}
