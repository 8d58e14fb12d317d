"""Times of each way of steering, measured here beside the paper's (Topic Alignment paper, 4.4; Tables 3 and 4).

Set-up is the time of the store's build. Each topic then needs its scores, or for fine-tuning a model of its own.
Prompts are timed one by one, for the first topic, generating new tokens without figures. The ways of steering take
turns, so that other load on the machine affects all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple

import pandas as pd

from core.evaluation.experiments import ExperimentOptions
from core.evaluation.text_columns import FT, NONE
from core.models.embeddings import distances_to_topic
from core.models.language_model import LanguageModel
from core.progress import Progress
from core.results.published import published
from core.results.statistics import Interval, bootstrap_mean
from core.scoring.scores import scores_from_sums
from core.settings import GenerationSettings, ScoreSettings
from core.steering.generation import Generator
from core.steering.settings import SteeringSettings
from core.steering.workbench import Workbench
from core.store.reader import Store
from core.text.prompts import Topic, continuations
from core.training.finetuning import finetune

WAYS = (NONE, "sae", "clamp", "swap")
N_TOPICS = 3  # topics timed: the first of those asked for
N_REPEATS = 5  # repeats of a topic's steps, which take milliseconds
N_PROMPTS = 10
SET_UP, PER_TOPIC, PER_PROMPT = "set-up", "per topic", "per prompt"
_TRAINING_PART = 0.6  # share of the time that goes into scoring and fine-tuning, for the progress bar
_INTERVAL = ("seconds", "low", "high", "n")


def set_up_steps(store: Store) -> pd.DataFrame:
    """Seconds of each step of the store's build; NaN if it was interrupted and resumed, as the times are incomplete."""
    meta = store.meta
    whole = meta.get("chunks_resumed") == "0"
    tokens = int(store.prompts()["n_tokens"].sum())
    names = {"reference embeddings": "embeddings", "reference activations": "activations", "store": "assemble"}
    seconds = [float(meta[f"seconds_{key}"]) if whole else math.nan for key in names.values()]
    return pd.DataFrame({"task": SET_UP, "step": list(names), "seconds": seconds, "tokens": tokens})


def topic_steps(bench: Workbench, topic: Topic) -> pd.DataFrame:
    """Seconds of each step of scoring a topic, timed `N_REPEATS` times; `tokens` is the topic's number of tokens."""
    settings, rows = ScoreSettings(), []
    topic_tokens = sum(sum(not s for s in bench.model.tokenise(prompt).special) for prompt in topic.prompts)
    reference = bench.store.embeddings()
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        embeddings = bench.embedding_model.embed(topic.prompts)
        embedded = time.perf_counter()
        distances = distances_to_topic(reference, embeddings)
        measured = time.perf_counter()
        scores_from_sums(bench.store.neuron_sums(distances, settings), bench.store.d_sae, settings.min_prompts)
        scored = time.perf_counter()
        times = {
            "topic embeddings": embedded - start,
            "distances": measured - embedded,
            "scoring": scored - measured,
        }
        rows += [{"task": PER_TOPIC, "step": step, "seconds": s, "tokens": topic_tokens} for step, s in times.items()]
    return pd.DataFrame(rows)


def prompt_times(
    bench: Workbench,
    topic: Topic,
    finetuned: LanguageModel,
    prompts: Sequence[str],
    steering: SteeringSettings,
    generation: GenerationSettings,
    progress: Callable[[float], None] = lambda share: None,
) -> pd.DataFrame:
    """Seconds per new token of each prompt under each way of steering, one row per (edit, prompt)."""
    scored = bench.score(topic)
    ways = {name: bench.way(name, scored, steering).placed for name in WAYS}
    rows = []
    for number, prompt in enumerate((prompts[0], *prompts)):
        for name in (FT, *WAYS):
            progress(number / (len(prompts) + 1))
            model = finetuned if name == FT else bench.model
            generator = Generator(model, [prompt], ways.get(name, ()), generation, measure=False)
            start = time.perf_counter()
            made = generator.finish()[0]
            seconds = time.perf_counter() - start
            if number and made.ids:  # the first run warms up
                rows.append({"edit": name, "per_token": seconds / len(made.ids)})
    return pd.DataFrame(rows)


def steps_table(steps: pd.DataFrame) -> pd.DataFrame:
    """Table 4: mean seconds of each step, in total and per token, beside the paper's."""
    table = steps.groupby(["task", "step"], sort=False)[["seconds", "tokens"]].mean().reset_index()
    table["per_token"] = table["seconds"] / table["tokens"]
    paper = published("topic_tables").query("table == 4").pivot(index="row", columns="column", values="value")
    paper = paper.rename(columns={"total": "published_seconds", "per token": "published_per_token"})
    return table.merge(paper, left_on="step", right_index=True, how="left")


def cost_table(steps: pd.DataFrame, trained: Sequence[float], times: pd.DataFrame, new_tokens: int) -> pd.DataFrame:
    """Table 3: seconds of each task and way of steering with 95% intervals, beside the paper's.

    `trained` is the seconds of each fine-tuning, `n` the number of measurements. A task that a way does not need takes
    0 seconds and has n = 0: the original model and the SAE alone need neither store nor topic, though the paper counts
    them alike.
    """
    per_topic = steps[steps["task"] == PER_TOPIC]
    repeat = per_topic.groupby("step").cumcount()
    measured = {
        SET_UP: {"scores": [steps.loc[steps["task"] == SET_UP, "seconds"].sum(skipna=False)]},
        PER_TOPIC: {FT: trained, "scores": per_topic["seconds"].groupby(repeat).sum().tolist()},
        PER_PROMPT: {name: (part["per_token"] * new_tokens).tolist() for name, part in times.groupby("edit")},
    }
    rows = []
    for task, values in measured.items():
        for name in (FT, *WAYS):
            key = "scores" if task != PER_PROMPT and name in ("clamp", "swap") else name
            interval = bootstrap_mean(values[key]) if key in values else Interval(0.0, 0.0, 0.0, 0)
            rows.append({"task": task, "edit": name, **dict(zip(_INTERVAL, astuple(interval), strict=True))})
    paper = published("topic_tables").query("table == 3")[["row", "column", "value"]]
    paper = paper.rename(columns={"row": "task", "column": "edit", "value": "published"})
    return pd.DataFrame(rows).merge(paper, on=["task", "edit"], how="left")


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `cost` (Table 3) and `cost-steps` (Table 4)."""
    topics, steering = options.topics[:N_TOPICS], options.steering or SteeringSettings()
    prompts = continuations()[: min(options.n, N_PROMPTS)]
    steps = [set_up_steps(workbench.store)]
    seconds: list[float] = []
    models: list[LanguageModel] = []  # the first topic's, which writes the prompts

    def trained(share: float) -> None:
        progress("scoring and fine-tuning", _TRAINING_PART * (len(seconds) + share) / len(topics))

    for topic in topics:
        steps.append(topic_steps(workbench, topic))
        own = finetune(workbench.model, topic.prompts, progress=trained)
        seconds.append(own.seconds)
        models = models or [own.model]

    def written(share: float) -> None:
        progress("prompts", _TRAINING_PART + (1 - _TRAINING_PART) * share)

    times = prompt_times(workbench, topics[0], models[0], prompts, steering, options.generation, written)
    progress("tables", 1.0)
    timed = pd.concat(steps, ignore_index=True)
    cost = cost_table(timed, seconds, times, options.generation.max_new_tokens)
    return {"cost": cost, "cost-steps": steps_table(timed)}
