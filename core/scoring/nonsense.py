"""Topics that mean nothing, and what they show in a store: the yardstick of `core.scoring.chance`.

Drawn with a fixed seed: lines of random words, each word equally likely or as often as in the prompts, and, from
`MIXED` prompts on, prompts of the reference set drawn at random. (A single such prompt, or two, is a topic.) What a
store shows is measured once for each number of prompts and each set of scoring settings, in seconds, and kept in the
app's store.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Literal

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

LineKind = Literal["random", "common", "shuffled"]
# kinds of lines that mean nothing; below `MIXED`, common words only for `unaligned`: few such lines have a subject
NONSENSE: tuple[LineKind, ...] = ("random", "common")
SIZES = (1, 2, 3, 6, 10, 20, 60)  # prompts of a meaningless topic; a topic is compared with the nearest size
MIXED = 6  # prompts from which a random draw of them counts as meaningless: the paper's smaller number
N_TOPICS = 200  # of each kind
N_LINES, LINE_WORDS = 400, (2, 12)  # lines of random words, and how many words at least and at most
TABLE = "chance"  # of the app's store
_RULE = 4  # raised when what is measured changes, so that what was kept is measured anew
_BLOCK = 50  # topics whose deviations are worked out at a time


def size_of(n_prompts: int) -> int:
    """The size, of `SIZES`, that topics of so many prompts are compared with."""
    return min(SIZES, key=lambda size: abs(math.log(n_prompts / size)))


@cache
def _texts() -> list[str]:
    return [prompt.text for prompt in reference_prompts(EMBEDDED_REFERENCE)]


@cache
def _words(*, different: bool) -> np.ndarray:
    """The words of all reference prompts, in their order, or each once in that of the alphabet."""
    words = [word for text in _texts() for word in re.findall(r"[a-z']+", text.lower())]
    return np.array(sorted(set(words)) if different else words)


def lines(kind: LineKind, n: int, seed: int) -> list[str]:
    """Lines made of the reference prompts' words.

    Args:
        kind: `random` draws from all different words, `common` as often as they occur; `shuffled` puts the words of a
            prompt in random order, which leaves most of its meaning.
    """
    rng = np.random.default_rng(seed)
    if kind == "shuffled":
        chosen = rng.permutation(len(_texts()))[:n]
        return [" ".join(rng.permutation(_texts()[i].split())) for i in chosen]
    words = _words(different=kind == "random")
    return [" ".join(rng.choice(words, rng.integers(LINE_WORDS[0], LINE_WORDS[1] + 1))) for _ in range(n)]


@cache
def embedded_lines(model: EmbeddingModel, kind: LineKind, seed: int) -> Float32[np.ndarray, "line d_embedding"]:
    """Embeddings of `N_LINES` lines of a kind."""
    return model.embed(lines(kind, N_LINES, seed))


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
    size, meaningless = size_of(n_prompts), Meaningless(store, settings)
    kinds: dict[str, Float32[np.ndarray, "line d_embedding"]] = {
        kind: embedded_lines(model, kind, seed=0) for kind in NONSENSE
    }
    if size >= MIXED:
        kinds["drawn"] = store.embeddings()
    found: dict[Side, list[np.ndarray]] = {side: [] for side in SIDES}
    for number, (kind, rows) in enumerate(kinds.items()):
        progress("meaningless topics", number / len(kinds))
        for side, of_side in meaningless.deviations(rows, size, seed=number).items():
            if kind != "common" or side == "unaligned" or size >= MIXED:
                found[side].append(of_side)
    progress("meaningless topics", 1.0)
    return measure(found)


class Meaningless:
    """How far a store's neurons stand out for topics that mean nothing, many at a time."""

    def __init__(self, store: Store, settings: ScoreSettings) -> None:
        counted = store.table("neurons", "prompts", "neuron")["prompts"].to_numpy() >= settings.min_prompts
        if settings.max_density is not None:
            counted &= store.density() <= settings.max_density
        neurons = np.flatnonzero(counted)
        summaries = store.summary_matrix(settings.summary).tocsc()[:, neurons].astype(np.float32)
        self.weights = summaries.multiply(1 / summaries.sum(axis=0)[None, :]).T.tocsr()
        self.squares = store.weight_squares(settings.summary)[neurons]
        self.reference, self.power = store.embeddings(), settings.distance_power

    def deviations(
        self, rows: Float32[np.ndarray, "line d_embedding"], size: int, seed: int
    ) -> dict[Side, Float32[np.ndarray, "neuron topic"]]:
        """The deviations of every neuron on `N_TOPICS` topics of `size` of these embeddings, drawn at random."""
        chosen, parts = draws(len(rows), size, seed), []
        for start in range(0, N_TOPICS, _BLOCK):
            distances = distances_to_many(self.reference, rows[chosen[start : start + _BLOCK]])
            parts.append(_deviations(self.weights, distances, self.power, self.squares))
        return {side: np.hstack([part[side] for part in parts]) for side in SIDES}


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
    return " ".join([f"{made_of}-{_RULE}", str(size_of(n_prompts)), *map(str, asdict(settings).values())])


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
