"""Ways to choose reference prompts. Each puts all of them in an order, whose beginning is a set of any size.

The Topic Alignment paper leaves the design of P_ref open: "how can we design it so that potential P_align topics will
be very close to some P_ref prompts and very far away from others?"
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

MAX_FARTHEST = 8_192  # each point takes a pass over all embeddings
_REPORTED = 64  # points between two reports of progress


def in_turns(labels: Sequence[object], order: Int[np.ndarray, "prompt"]) -> Int[np.ndarray, "prompt"]:
    """The order rearranged so that labels take turns: each label's first prompt, then each one's second, and so on.

    Args:
        labels: label of every prompt, by number.
    """
    turns: dict[object, int] = {}
    turn = np.empty(len(order), dtype=np.int64)
    for place, prompt in enumerate(order):
        turn[place] = turns.get(labels[prompt], 0)
        turns[labels[prompt]] = turn[place] + 1
    return order[np.argsort(turn, kind="stable")]


def farthest_points(
    embeddings: Float[np.ndarray, "prompt d_embedding"],
    n: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Int[np.ndarray, "n"]:
    """n prompts, each the farthest from all before it (Gonzalez 1985), starting from the most central one.

    Args:
        embeddings: of unit length, so that the farthest has the smallest inner product.
    """
    chosen = [int(np.argmax(embeddings @ embeddings.mean(axis=0)))]
    nearest = embeddings @ embeddings[chosen[0]]  # cosine of each prompt with the nearest chosen one
    while len(chosen) < n:
        nearest[chosen[-1]] = np.inf  # copies of a chosen prompt come last, itself never
        chosen.append(int(np.argmin(nearest)))
        np.maximum(nearest, embeddings @ embeddings[chosen[-1]], out=nearest)
        if len(chosen) % _REPORTED == 0:
            progress(len(chosen) / n)
    return np.array(chosen)


def contrast(
    distances: Float[np.ndarray, "prompt topic"],
) -> tuple[Int[np.ndarray, "prompt"], Float[np.ndarray, "prompt"]]:
    """Each prompt's nearest topic, and its mean distance from the other topics minus that from the nearest."""
    nearest = distances.min(axis=1)
    others = (distances.sum(axis=1) - nearest) / (distances.shape[1] - 1)
    return distances.argmin(axis=1), others - nearest


def contrastive(distances: Float[np.ndarray, "prompt topic"]) -> Int[np.ndarray, "prompt"]:
    """Prompts by contrast, largest first: near one topic and far from the rest. The nearest topics take turns."""
    nearest, contrasts = contrast(distances)
    return in_turns(nearest.tolist(), np.argsort(-contrasts, kind="stable"))
