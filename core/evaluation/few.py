"""How few prompts does a topic need, and what do texts tell of them? (Topic Alignment paper, section 5.)

The paper expects its method to serve where examples are too few for fine-tuning, and where they are private, as their
tokens are never used for scoring. Here a topic is given by its first 1, 2, 6 and 20 prompts, to swap, clamp and
fine-tuning. Texts are measured by all prompts of the topic, whatever was given, so that the columns compare.

What gives the prompts away: words that a text copies from them, and `exposure`, how much likelier the steered model
finds the given prompts than the topic's other prompts, beyond what the unsteered model does. At 0 the model does not
show which prompts it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from core.evaluation.experiments import ExperimentOptions
from core.evaluation.text import prompt_sets
from core.evaluation.text_columns import FT, NONE, TopicColumns
from core.models.language_model import LanguageModel
from core.progress import Progress
from core.results.statistics import bootstrap_mean
from core.steering.placement import steered
from core.steering.settings import SteeringSettings
from core.steering.ways import Way
from core.steering.workbench import Workbench
from core.text.prompts import Topic

SIZES = (1, 2, 6, 20)  # prompts of the topic that are given
COLUMNS = (NONE, "swap", "clamp", FT)
N_TOPICS, N_PROMPTS = 3, 12  # the first of those asked for; continued for each
FIGURES = ("distance", "topic_percentile", "perplexity", "distinct_2", "copied")
_TRAINING_PART = 0.5  # share of the time of fine-tuning's column that its training takes, for the progress bar


def longest_copy(text: str, sources: Sequence[str]) -> int:
    """Number of words in the longest run of words that the text has in common with one of the sources."""
    words, longest = text.lower().split(), 0
    for source in sources:
        theirs = source.lower().split()
        before = [0] * (len(theirs) + 1)  # length of the common run that ends at each of their words
        for word in words:
            row = [0] * (len(theirs) + 1)
            for place, other in enumerate(theirs, start=1):
                if word == other:
                    row[place] = before[place - 1] + 1
            longest, before = max(longest, *row), row
    return longest


@torch.inference_mode()
def losses(model: LanguageModel, way: Way, prompts: Sequence[str]) -> Float[np.ndarray, "prompt"]:
    """Mean negative log-likelihood of each prompt's tokens after the first, in nats, under a way of steering."""
    tokens = model.pad([model.tokenise(prompt, max_length=model.n_context) for prompt in prompts])
    with steered(
        model,
        way.placed,
        special=tokens.special,
        generated=torch.zeros_like(tokens.attention),
        attention=tokens.attention,
        roles=tokens.roles,
    ):
        logits = model.forward(tokens)
    own = logits[:, :-1].float().log_softmax(-1).gather(-1, tokens.ids[:, 1:, None])[..., 0]
    read = tokens.attention[:, 1:] & ~tokens.special[:, 1:]
    return ((-own * read).sum(-1) / read.sum(-1)).cpu().numpy()


class _Given:
    """A topic given by some of its prompts: its columns, and the model that each of them runs on."""

    def __init__(self, bench: Workbench, topic: Topic, size: int, options: ExperimentOptions) -> None:
        self.bench, self.topic, self.size = bench, topic, size
        self.shown, self.others = topic.prompts[:size], topic.prompts[size:]
        self.columns = TopicColumns(
            bench=bench,
            scored=bench.score(replace(topic, prompts=self.shown)),
            steering=options.steering or SteeringSettings(),
            generation=options.generation,
        )

    def bench_of(self, name: str) -> Workbench:
        if name != FT:
            return self.bench
        return Workbench(self.bench.store, self.bench.embedding_model, self.columns.finetuned.model, self.bench.sae)

    def exposure(self, name: str) -> float:
        """Nats a token by which steering favours the given prompts over the topic's others; NaN if none are left."""
        if not self.others:
            return float("nan")
        gains = [
            losses(self.bench.model, Way(NONE), prompts)
            - losses(self.bench_of(name).model, self.columns.way(name), prompts)
            for prompts in (self.shown, self.others)
        ]
        return float(gains[0].mean() - gains[1].mean())

    def texts(self, name: str, prompts: Sequence[str], progress: Callable[[float], None]) -> pd.DataFrame:
        """One row per prompt: the continuation and its figures, by all prompts of the topic."""
        self.columns.progress = lambda share: progress(_TRAINING_PART * share)
        bench, options, whole = self.bench_of(name), self.columns.generation, self.bench.score(self.topic)
        before = _TRAINING_PART if name == FT else 0.0
        generator = bench.together(
            [self.columns.way(name)], prompts, self.columns.scored, options, measure=False, keep_going=True
        )
        for done, _ in enumerate(generator, start=1):
            progress(before + (1 - before) * done / options.max_new_tokens)
        made = generator.generations
        figures = pd.DataFrame(self.bench.figures(made, whole))
        copied = [longest_copy(g.text, self.shown) for g in made]
        labels = {"topic": self.topic.name, "given": self.size, "edit": name, "exposure": self.exposure(name)}
        return figures.assign(prompt=list(prompts), text=[g.text for g in made], copied=copied, **labels)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over prompts (each the mean over topics) with 95% intervals, one row per (given, edit).

    `exposure` is the mean over topics; `n` the number of prompts, `topics` that of topics.
    """
    table = []
    for (given, edit), part in rows.groupby(["given", "edit"], sort=False):
        by_prompt = part.groupby("prompt")[list(FIGURES)].mean()
        by_topic = part.groupby("topic")["exposure"].first()
        line: dict[str, object] = {"given": given, "edit": edit, "n": len(by_prompt), "topics": len(by_topic)}
        for name, values in [*by_prompt.items(), ("exposure", by_topic)]:
            interval = bootstrap_mean(values.to_numpy())
            line |= {str(name): interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        table.append(line)
    return pd.DataFrame(table)


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `few` (means) and `few-rows` (every text)."""
    topics = options.topics[:N_TOPICS]
    due = [(topic, size) for topic in topics for size in SIZES if size <= len(topic.prompts)]
    parts: list[pd.DataFrame] = []
    stage = ""

    def report(share: float) -> None:
        progress(stage, (len(parts) + share) / (len(due) * len(COLUMNS)))

    for topic, size in due:
        given = _Given(workbench, topic, size, options)
        (main,) = prompt_sets(topic, ("main",), min(options.n, N_PROMPTS))
        for name in COLUMNS:
            stage = f"{topic.title}, {size} given, {name}"
            report(0.0)
            parts.append(given.texts(name, main.prompts, report))
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[["topic", "given", "edit", "prompt", "text", *FIGURES, "exposure"]]
    return {"few": summarise(rows), "few-rows": rows}
