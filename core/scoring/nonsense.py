"""Topics that mean nothing, and what they show in a store: the yardstick of `core.scoring.chance`.

Two kinds, drawn with a fixed seed: lines of random words, and, from `MIXED` prompts on, prompts of the reference set
drawn at random. (A single such prompt, or two, is a topic.) What a store shows is measured once for each number of
prompts and each set of scoring settings, in seconds, and kept in the app's store.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Float64, Int

from core.catalog import EMBEDDED_REFERENCE
from core.models.embeddings import EmbeddingModel
from core.progress import Progress
from core.results.app_store import AppStore
from core.scoring.chance import SIDES, Chance, Side, Tail, deviations, measure
from core.settings import ScoreSettings
from core.store.prompt_weights import ends
from core.store.reader import Store
from core.text.prompts import reference_prompts

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SIZES = (1, 2, 3, 6, 10, 20, 60)  # prompts of a meaningless topic; a topic is compared with the nearest size
MIXED = 6  # prompts from which a random draw of them counts as meaningless: the paper's smaller number
N_TOPICS = 200  # of each kind
N_LINES, LINE_WORDS = 400, (2, 12)  # lines of random words, and how many words at least and at most
TABLE = "chance"  # of the app's store
_BLOCK = 50  # topics whose deviations are worked out at a time


def size_of(n_prompts: int) -> int:
    """The size, of `SIZES`, that topics of so many prompts are compared with."""
    return min(SIZES, key=lambda size: abs(math.log(n_prompts / size)))


def random_lines(n: int, seed: int) -> list[str]:
    """Lines of random words, each of the reference prompts' words as likely as any other."""
    texts = (prompt.text.lower() for prompt in reference_prompts(EMBEDDED_REFERENCE))
    words = sorted({word for text in texts for word in re.findall(r"[a-z']+", text)})
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, rng.integers(LINE_WORDS[0], LINE_WORDS[1] + 1))) for _ in range(n)]


@cache
def _embedded_lines(model: EmbeddingModel) -> Float32[np.ndarray, "line d_embedding"]:
    return model.embed(random_lines(N_LINES, seed=0))


def draws(n_rows: int, size: int, seed: int) -> Int[np.ndarray, "topic size"]:
    """`N_TOPICS` draws of `size` rows, every row used before any comes again."""
    rng = np.random.default_rng(seed)
    rounds = -(-N_TOPICS * size // n_rows)
    return np.concatenate([rng.permutation(n_rows) for _ in range(rounds)])[: N_TOPICS * size].reshape(-1, size)


def distances_to_many(
    reference: Float[np.ndarray, "prompt d_embedding"], topics: Float[np.ndarray, "topic size d_embedding"]
) -> Float64[np.ndarray, "prompt topic"]:
    """`distances_to_topic` of many topics of one size, in single precision: good to 0.001."""
    n_topics, size, _ = topics.shape
    cosines = (reference @ topics.reshape(n_topics * size, -1).T).reshape(len(reference), n_topics, size)
    distances: np.ndarray = np.sqrt((2 - 2 * cosines.max(axis=2).astype(np.float64)).clip(0.0, 4.0))
    return distances


def measure_chance(
    store: Store,
    model: EmbeddingModel,
    n_prompts: int,
    settings: ScoreSettings,
    progress: Progress = lambda stage, share: None,
) -> Chance:
    """Measures what meaningless topics of about `n_prompts` prompts show in a store.

    Takes seconds, and 40 bytes for each stored activation.
    """
    progress("meaningless topics", 0.0)
    lines, size = _embedded_lines(model), size_of(n_prompts)
    counted = store.table("neurons", "prompts", "neuron")["prompts"].to_numpy() >= settings.min_prompts
    if settings.max_density is not None:
        counted &= store.density() <= settings.max_density
    neurons = np.flatnonzero(counted)
    summaries = store.summary_matrix(settings.summary).tocsc()[:, neurons].astype(np.float32)
    weights = summaries.multiply(1 / summaries.sum(axis=0)[None, :]).T.tocsr()
    squares, kinds = store.weight_squares(settings.summary)[neurons], []
    reference = store.embeddings()
    for number, rows in enumerate((lines, reference) if size >= MIXED else (lines,)):
        chosen, parts = draws(len(rows), size, seed=number), []
        for start in range(0, N_TOPICS, _BLOCK):
            distances = distances_to_many(reference, rows[chosen[start : start + _BLOCK]])
            parts.append(_deviations(weights, distances, settings.distance_power, squares))
            progress("meaningless topics", (start + _BLOCK) / N_TOPICS)
        kinds.append({side: np.hstack([part[side] for part in parts]) for side in SIDES})
    return measure(kinds)


def _deviations(
    weights: csr_array, distances: Float[np.ndarray, "prompt topic"], power: int, squares: Float[np.ndarray, "neuron"]
) -> dict[Side, Float32[np.ndarray, "neuron topic"]]:
    near, far = ends(distances)
    values = {"g": distances**power, "near": near, "far": far}
    sums: dict[str, np.ndarray] = {
        name: np.asarray(weights @ of_prompts.astype(np.float32)) for name, of_prompts in values.items()
    }
    return {side: d.astype(np.float32) for side, d in deviations(sums, distances, power, squares).items()}


# ---- kept in the app's store ----


def _key(store: Store, n_prompts: int, settings: ScoreSettings) -> str:
    """What the measurement follows from; the store's own part comes first."""
    made_of = store.meta.get("fingerprint") or store.meta.get("built_at", "")
    return " ".join([made_of, str(size_of(n_prompts)), *map(str, asdict(settings).values())])


def known_chance(app: AppStore, store: Store, n_prompts: int, settings: ScoreSettings) -> Chance | None:
    """What meaningless topics show, if it was measured and kept."""
    kept = _kept(app, store)
    mine = kept.get(_key(store, n_prompts, settings))
    if mine is None:
        return None
    sides = {side: mine[mine["side"] == side] for side in SIDES}
    return Chance(
        {
            s: Tail(t["rank"].to_numpy(np.int64), t["value"].to_numpy(np.float64), int(t["total"].iloc[0]))
            for s, t in sides.items()
        },
        {side: float(table["level"].iloc[0]) for side, table in sides.items()},
    )


def keep_chance(app: AppStore, store: Store, n_prompts: int, settings: ScoreSettings, chance: Chance) -> None:
    """Keeps what was measured, and forgets what was measured on an earlier build of the store."""
    rows = pd.concat(
        [
            pd.DataFrame(
                {
                    **{"key": _key(store, n_prompts, settings), "side": side},
                    **{"total": tail.total, "level": chance.levels[side], "rank": tail.ranks, "value": tail.values},
                }
            )
            for side, tail in chance.tails.items()
        ]
    )
    kept = _kept(app, store) | {_key(store, n_prompts, settings): rows}
    app.save_result(store.path.parent.name, TABLE, pd.concat(kept.values(), ignore_index=True))


def _kept(app: AppStore, store: Store) -> dict[str, pd.DataFrame]:
    """What is kept of this build of the store, by key."""
    table = app.result(store.path.parent.name, TABLE)
    made_of = _key(store, 1, ScoreSettings()).split(" ", 1)[0]
    by_key = {} if table is None else {str(key): rows for key, rows in table.groupby("key")}
    return {key: rows for key, rows in by_key.items() if key.startswith(f"{made_of} ")}
