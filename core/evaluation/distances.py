"""Is the distance between sentence embeddings a fair measure of topic? (Topic Alignment paper, A.2; Tables 5 and 6.)

Mean distance of a topic's prompts from each other (intra) and from those of other topics (inter), with pairs of prompts
to read. The paper's printed Table 5 has its two columns exchanged: its text says that intra is below inter, and so do
its pairs. Beside all topics, the same over the paper's four alone: inter depends on which others there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from core.errors import UsageError
from core.evaluation.experiments import ExperimentOptions
from core.progress import Progress
from core.scoring.scorer import Scorer
from core.statistics import bootstrap_mean
from core.text.prompts import Topic

PAPER_TOPICS = ("amazon", "yelp", "imdb", "wikipedia")
ALL, PAPER = "all topics", "the paper's four"
N_EXAMPLES = 3  # pairs of each kind and topic


class Distances:
    """Euclidean distances between all prompts of some topics, 0 to 2."""

    def __init__(self, topics: Sequence[Topic], embeddings: Sequence[Float[np.ndarray, "prompt d_embedding"]]) -> None:
        """
        Args:
            embeddings: of each topic's prompts, of unit length.
        """
        self.names = [topic.name for topic in topics]
        self.prompts = [prompt for topic in topics for prompt in topic.prompts]
        self.topic = np.repeat(np.arange(len(topics)), [len(topic.prompts) for topic in topics])
        rows = np.concatenate(embeddings).astype(np.float64)
        # |a - b|^2 = 2 - 2ab for unit vectors
        self.of: Float[np.ndarray, "prompt prompt"] = np.sqrt((2.0 - 2.0 * rows @ rows.T).clip(0.0, 4.0))
        np.fill_diagonal(self.of, np.nan)  # no pair

    def members(self, name: str) -> Bool[np.ndarray, "prompt"]:
        """Which prompts are the topic's."""
        found: np.ndarray = self.topic == self.names.index(name)
        return found

    def between(self, name: str, other: str) -> Float[np.ndarray, "prompt prompt"]:
        """Distances of a topic's prompts (rows) from another's, or, NaN on the diagonal, from each other."""
        block: np.ndarray = self.of[np.ix_(self.members(name), self.members(other))]
        return block


def summarise(distances: Distances, among: Sequence[str], label: str) -> pd.DataFrame:
    """Table 5: a row a topic.

    Args:
        among: the topics that count as each other's others.

    Returns:
        among; topic; n (prompts); intra and inter, each a mean over the topic's prompts of their mean distance from the
        other prompts of the topic, from those of the other topics, with 95% intervals over prompts; inter_closer (share
        of pairs across topics that are closer than the topic's farthest pair of its own); nearest_own (share of prompts
        whose nearest other prompt is of the same topic).
    """
    rows = []
    for name in among:
        own = distances.between(name, name)
        others = np.concatenate([distances.between(name, other) for other in among if other != name], axis=1)
        intra, inter = bootstrap_mean(np.nanmean(own, axis=1)), bootstrap_mean(others.mean(axis=1))
        line = {"among": label, "topic": name, "n": len(own)}
        line |= {"intra": intra.mean, "intra_low": intra.low, "intra_high": intra.high}
        line |= {"inter": inter.mean, "inter_low": inter.low, "inter_high": inter.high}
        line["inter_closer"] = float((others < np.nanmax(own)).mean())
        line["nearest_own"] = float((np.nanmin(own, axis=1) < others.min(axis=1)).mean())
        rows.append(line)
    return pd.DataFrame(rows)


def topic_pairs(distances: Distances) -> pd.DataFrame:
    """Mean distance of every topic from every other, and within itself: topic, other, distance, pairs."""
    rows = []
    for name in distances.names:
        for other in distances.names:
            found = distances.between(name, other)
            n_pairs = found.size if name != other else len(found) * (len(found) - 1) // 2
            rows.append((name, other, float(np.nanmean(found)), n_pairs))
    return pd.DataFrame(rows, columns=["topic", "other", "distance", "pairs"])


def examples(distances: Distances) -> pd.DataFrame:
    """Table 6: the nearest and the farthest pairs of prompts, within a topic and across topics.

    Returns:
        topic, kind (`intra` or `inter`), end (`nearest` or `farthest`), place (from 1), distance, prompt, other (its
        topic), other_prompt. A prompt stands in one pair of a kind and end at most.
    """
    rows = []
    for name in distances.names:
        mine = np.flatnonzero(distances.members(name))
        rest = np.flatnonzero(~distances.members(name))
        for kind, partners in (("intra", mine), ("inter", rest)):
            for end, sign in (("nearest", 1.0), ("farthest", -1.0)):
                for place, (i, j) in enumerate(_first_pairs(sign * distances.of, mine, partners), start=1):
                    other = distances.names[distances.topic[j]]
                    line = (name, kind, end, place, distances.of[i, j], distances.prompts[i], other)
                    rows.append((*line, distances.prompts[j]))
    return pd.DataFrame(rows, columns=["topic", "kind", "end", "place", "distance", "prompt", "other", "other_prompt"])


def _first_pairs(
    values: Float[np.ndarray, "prompt prompt"], mine: np.ndarray, partners: np.ndarray
) -> list[tuple[int, int]]:
    """The N_EXAMPLES pairs of smallest value, no prompt in two of them."""
    block = values[np.ix_(mine, partners)]
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(block, axis=None, kind="stable"):
        row, column = divmod(int(flat), block.shape[1])
        pair = (int(mine[row]), int(partners[column]))
        if np.isfinite(block[row, column]) and not {*pair} & {prompt for found in pairs for prompt in found}:
            pairs.append(pair)
        if len(pairs) == N_EXAMPLES:
            break
    return pairs


def run(
    workbench: Scorer, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `distances`, `distances-pairs` (topic by topic) and `distances-examples`.

    Raises:
        UsageError: fewer than two topics, or one of a single prompt: it has no distance of its own.
    """
    if len(options.topics) < 2 or any(len(topic.prompts) < 2 for topic in options.topics):
        raise UsageError("distances compare topics: name two or more, each of at least two prompts")
    embeddings = []
    for number, topic in enumerate(options.topics):
        progress(f"topics: {topic.title}", number / len(options.topics))
        embeddings.append(workbench.embedding_model.embed(topic.prompts))
    progress("topics", 1.0)
    distances = Distances(options.topics, embeddings)
    summaries = [summarise(distances, distances.names, ALL)]
    if set(PAPER_TOPICS) <= set(distances.names):
        summaries.append(summarise(distances, PAPER_TOPICS, PAPER))
    return {
        "distances": pd.concat(summaries, ignore_index=True),
        "distances-pairs": topic_pairs(distances),
        "distances-examples": examples(distances),
    }
