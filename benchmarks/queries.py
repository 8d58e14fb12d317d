"""Queries on a synthetic store: scores of all neurons, one neuron's page, and how both grow with the rows."""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.timing import Figure, median_ms
from core.evaluation.coverage import coverage, sample_sizes, summarise
from core.evaluation.topk import Ranks, curves, firing
from core.scoring.scores import score_topic
from core.store.batch import ActivationBatch
from core.store.reader import Store
from core.store.schema import assemble
from core.store.shards import Parts
from core.text.prompts import Prompt

D_EMBEDDING, TOKENS_A_PROMPT, PROMPTS_A_CHUNK = 384, 64, 512


def _batch(ids: np.ndarray, neurons_a_prompt: int, d_sae: int, rng: np.random.Generator) -> ActivationBatch:
    """Each prompt fires about `neurons_a_prompt` neurons once each; few neurons fire often, most seldom."""
    n = len(ids)
    neuron = (d_sae * rng.random((n, neurons_a_prompt)) ** 2).astype(np.int32)
    rows = [np.unique(row) for row in neuron]
    sizes = [len(row) for row in rows]
    prompt = np.repeat(ids, sizes)
    position = rng.integers(0, TOKENS_A_PROMPT, len(prompt), dtype=np.int32)
    return ActivationBatch(
        prompts=ids,
        n_tokens=np.full(n, TOKENS_A_PROMPT, np.int32),
        tokens=[["word"] * TOKENS_A_PROMPT] * n,
        prompt=prompt,
        position=position[np.lexsort((position, prompt))],
        neuron=np.concatenate(rows),
        activation=rng.gamma(2.0, 1.0, len(prompt)).astype(np.float32),
    )


def synthetic_store(root: Path, *, n_prompts: int, rows: int, d_sae: int) -> Store:
    """A store of about `rows` activation rows, with random numbers in the shape of real ones."""
    rng = np.random.default_rng(0)
    name = f"synthetic-{rows}"
    parts = Parts(root / name / "parts", "benchmark")
    parts.prepare(resume=False)
    reference = [Prompt(f"prompt {i}", f"task {i % 60}", f"group {i % 12}") for i in range(n_prompts)]
    chunks = np.array_split(np.arange(n_prompts, dtype=np.int32), max(1, n_prompts // PROMPTS_A_CHUNK))
    for chunk, ids in enumerate(chunks):
        parts.write_activations(chunk, ids.tolist(), reference, [_batch(ids, rows // n_prompts, d_sae, rng)])
        embeddings = rng.normal(size=(len(ids), D_EMBEDDING)).astype(np.float32)
        parts.write_embeddings(chunk, ids.tolist(), embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    parts.write_lens([["up"]] * d_sae, [["down"]] * d_sae)
    assemble(root, name, parts, {"embedding_model": "random"}, n_prompts=n_prompts)
    parts.discard()
    return Store.open(root, name)


def _neuron_page(store: Store, neuron: int) -> None:
    """What the page of one neuron reads."""
    store.neurons([neuron])
    store.neuron_rows(neuron)
    store.contexts(neuron)


def timed(store: Store, repeats: int) -> tuple[float, float, float]:
    """Milliseconds of scoring a new topic, of the first after a build, and of one neuron's page."""
    rng = np.random.default_rng(1)

    def score() -> None:
        topic = rng.normal(size=(20, D_EMBEDDING)).astype(np.float32)
        score_topic(store, topic / np.linalg.norm(topic, axis=1, keepdims=True))

    start = time.perf_counter()
    score()  # makes the store's columns
    first = 1e3 * (time.perf_counter() - start)
    busiest = int(store.neurons()["prompts"].idxmax())
    active = store.neurons().query("prompts > 0")["prompts"].sort_values()
    median = int(active.index[len(active) // 2])
    page = max(median_ms(partial(_neuron_page, store, neuron), repeats) for neuron in (busiest, median))
    return median_ms(score, repeats), first, page


def _coverage_ms(store: Store, repeats: int) -> float:
    """Five samples of every size, from the store."""
    sizes = sample_sizes(store.n_prompts)
    return median_ms(lambda: summarise(coverage(store.summary_matrix("count"), sizes)), repeats)


def _top_k_ms(store: Store, repeats: int) -> float:
    """The curves of one topic: 20 prompts and 40 unaligned ones, 32 active neurons a token."""
    rng = np.random.default_rng(2)
    topic = rng.normal(size=(20, D_EMBEDDING)).astype(np.float32)
    scores = score_topic(store, topic / np.linalg.norm(topic, axis=1, keepdims=True))
    pairs = 32 * TOKENS_A_PROMPT
    aligned, unaligned = (firing([_batch(np.arange(n, dtype=np.int32), pairs, store.d_sae, rng)]) for n in (20, 40))
    return median_ms(lambda: curves(Ranks.of(scores), aligned, unaligned), repeats)


def run(repeats: int, *, quick: bool) -> list[Figure]:
    """5M rows and 32,768 neurons, then ten times the rows."""
    rows, n_prompts, d_sae = (4_000, 200, 128) if quick else (5_000_000, 8_000, 32_768)
    with tempfile.TemporaryDirectory(prefix="steerscope-bench-") as folder:
        start = time.perf_counter()
        with synthetic_store(Path(folder), n_prompts=n_prompts, rows=rows, d_sae=d_sae) as store:
            score, first, page = timed(store, repeats)
            reached, curve = _coverage_ms(store, repeats), _top_k_ms(store, repeats)
        with synthetic_store(Path(folder), n_prompts=10 * n_prompts, rows=10 * rows, d_sae=d_sae) as store:
            large_score, large_first, large_page = timed(store, repeats)
        made = f"stores made in {time.perf_counter() - start:.0f} s"
    return [
        Figure(f"score all neurons, {rows:,} rows", score, "ms", 20, note=f"the first {first:.0f} ms; {made}"),
        Figure(
            f"score all neurons, {10 * rows:,} rows", large_score, "ms", 200, note=f"the first {large_first:.0f} ms"
        ),
        Figure(f"one neuron's page, {rows:,} rows", page, "ms", note="the slower of the busiest and a median neuron"),
        Figure(f"one neuron's page, {10 * rows:,} rows", large_page, "ms", 30),
        Figure(f"coverage, {rows:,} rows", reached, "ms"),
        Figure(f"top-k curve of a topic, {d_sae:,} neurons", curve, "ms", note="forward passes left out"),
    ]
