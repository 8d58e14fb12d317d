"""All benchmarks as one table, for `python -m core bench`."""

import os
import platform
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pandas as pd

from benchmarks.timing import Figure
from core.doctor import versions
from core.results.export import export_bytes

GROUPS = ("queries", "generation", "build", "training", "startup")
ON_REQUEST = ("browser", "growth")  # ten minutes and a Chromium; half an hour


def run(
    groups: list[str],
    repeats: int,
    *,
    quick: bool,
    against_sae_lens: bool,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> pd.DataFrame:
    """One row a figure: work, value, unit, bar, holds, note.

    Args:
        quick: tiny sizes, to see that everything runs; its figures mean nothing and are held against no bar.
        against_sae_lens: compare with sae_lens's own classes, too; training is always so compared.
    """
    rows = []
    for number, group in enumerate(groups):
        progress(group, number / len(groups))
        figures = _run(group, repeats, quick=quick, against_sae_lens=against_sae_lens)
        rows += [replace(figure, bar=None).row() if quick else figure.row() for figure in figures]
    progress("done", 1.0)
    return pd.DataFrame(rows)


def _run(group: str, repeats: int, *, quick: bool, against_sae_lens: bool) -> list[Figure]:
    # each brings libraries of its own: imported when it runs
    from benchmarks import browser, building, generation, growth, queries, sae_training, startup

    match group:
        case "queries":
            return queries.run(repeats, quick=quick)
        case "generation":
            return generation.run(repeats, quick=quick, against_sae_lens=against_sae_lens)
        case "build":
            return building.run(repeats, quick=quick, against_sae_lens=against_sae_lens)
        case "training":
            return sae_training.run(repeats, quick=quick)
        case "startup":
            return startup.run(repeats, quick=quick)
        case "browser":
            return browser.run(repeats, quick=quick)
        case "growth":
            return growth.run(repeats, quick=quick)
    raise ValueError(group)


def page(table: pd.DataFrame, command: str) -> str:
    """The table as a Markdown page that says when, on what and by which command it was made."""
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"`{command}`, {date.today()}, {os.cpu_count()} processors ({_processor()}); {packages}.",
            "Medians; the sides of a ratio took turns in one run. Seconds and milliseconds are this machine's.",
            "",
            export_bytes(table, "md").decode(),
        ]
    )


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
