"""How the time of scores and the size of a store grow with prompts and with neurons, on synthetic stores.

Slower than the other benchmarks, and made to be read rather than held against bars: docs/scale.md draws on it.
"""

import tempfile
import time
from pathlib import Path

from benchmarks.queries import synthetic_store, timed
from benchmarks.timing import Figure

ROWS_A_PROMPT = 50
PROMPTS = (1_000, 10_000, 100_000, 1_000_000)
NEURONS = (4_096, 16_384, 32_768, 131_072)
ROWS, FEW_PROMPTS, FEW_NEURONS = 5_000_000, 8_000, 32_768


def _store_figures(what: str, repeats: int, *, n_prompts: int, rows: int, d_sae: int) -> list[Figure]:
    """Scores and a neuron's page of one synthetic store, with its size and how long it took to make."""
    with tempfile.TemporaryDirectory(prefix="steerscope-bench-") as folder:
        start = time.perf_counter()
        with synthetic_store(Path(folder), n_prompts=n_prompts, rows=rows, d_sae=d_sae) as store:
            made = time.perf_counter() - start
            score, _, page = timed(store, repeats)
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    note = f"{rows:,} rows, {size / 1e6:,.0f} MB on disk, made in {made:.0f} s"
    return [
        Figure(f"growth: score all neurons, {what}", score, "ms", note=note),
        Figure(f"growth: one neuron's page, {what}", page, "ms"),
    ]


def run(repeats: int, *, quick: bool) -> list[Figure]:
    """Prompts from a thousand to a million, then neurons from 4K to 131K."""
    figures = []
    for n in PROMPTS[:1] if quick else PROMPTS:
        figures += _store_figures(f"{n:,} prompts", repeats, n_prompts=n, rows=ROWS_A_PROMPT * n, d_sae=FEW_NEURONS)
    for d_sae in NEURONS[:1] if quick else NEURONS:
        rows = ROWS // 100 if quick else ROWS
        figures += _store_figures(f"{d_sae:,} neurons", repeats, n_prompts=FEW_PROMPTS, rows=rows, d_sae=d_sae)
    return figures
