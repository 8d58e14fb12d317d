"""Does the distance between sentence embeddings measure topic? (Topic Alignment paper, A.2; Tables 5 and 6.)

The mean distance of a topic's prompts from each other (intra) is compared with that from other topics' prompts (inter),
with example pairs. The paper's printed Table 5 has its two columns exchanged: its text and its pairs say that intra is
below inter. Figures are over all topics and over the paper's four alone, as inter depends on which other topics there
are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from core.errors import UsageError
from core.evaluation.experiments import ExperimentOptions
from core.progress import Progress
from core.results.statistics import bootstrap_mean
from core.scoring.scorer import Scorer
from core.text.prompts import Topic

PAPER_TOPICS = ("amazon", "yelp", "imdb", "wikipedia")
ALL, PAPER = "all topics", "the paper's four"
N_EXAMPLES = 3  # pairs of each kind, end and topic


class Distances:
    """Euclidean distances between all prompts of some topics, 0 to 2 as the embeddings have unit length."""

    def __init__(self, topics: Sequence[Topic], embeddings: Sequence[Float[np.ndarray, "prompt d_embedding"]]) -> None:
        """`embeddings` are those of each topic's prompts, of unit length."""
        self.names = [topic.name for topic in topics]
        self.prompts = [prompt for topic in topics for prompt in topic.prompts]
        self.topic = np.repeat(np.arange(len(topics)), [len(topic.prompts) for topic in topics])
        rows = np.concatenate(embeddings).astype(np.float64)
        # |a - b|^2 = 2 - 2ab for unit vectors
        self.of: Float[np.ndarray, "prompt prompt"] = np.sqrt((2.0 - 2.0 * rows @ rows.T).clip(0.0, 4.0))
        np.fill_diagonal(self.of, np.nan)  # a prompt and itself are no pair

    def members(self, name: str) -> Bool[np.ndarray, "prompt"]:
        """Mask of the topic's prompts."""
        found: np.ndarray = self.topic == self.names.index(name)
        return found

    def between(self, name: str, other: str) -> Float[np.ndarray, "prompt prompt"]:
        """Distances of one topic's prompts (rows) from another's (columns); NaN between a prompt and itself."""
        block: np.ndarray = self.of[np.ix_(self.members(name), self.members(other))]
        return block


def summarise(distances: Distances, among: Sequence[str], label: str) -> pd.DataFrame:
    """Table 5: one row per topic.

    Args:
        among: the topics that are compared with one another.
        label: value of the column `among`.

    Returns:
        Columns among; topic; n (prompts); intra and inter (means over the topic's prompts of their mean distance from
        its other prompts, and from the other topics' prompts) with 95% intervals over prompts; inter_closer (share of
        pairs across topics that are closer than the topic's own farthest pair); nearest_own (share of prompts whose
        nearest other prompt is of the same topic).
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
    """Mean distance between every two topics and within each: columns topic, other, distance, pairs (their number)."""
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
        Columns topic, kind (`intra` or `inter`), end (`nearest` or `farthest`), place (from 1), distance, prompt, other
        (its topic), other_prompt. A prompt is in at most one pair of a kind and end.
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
    """The N_EXAMPLES pairs with the smallest values, with no prompt in two of them."""
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
    """Tables `distances`, `distances-pairs` (topic by topic) and `distances-examples`; needs no language model.

    Raises:
        UsageError: there are fewer than two topics, or one has a single prompt, so no distance within it.
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
