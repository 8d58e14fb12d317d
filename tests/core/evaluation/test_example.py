"""The comparison that Generate opens with: saved whole, restored as it was, and never shown for other settings."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from core.evaluation import example
from core.evaluation.example import EXAMPLE, TABLES, restored, run
from core.evaluation.experiments import ExperimentOptions
from core.results.app_store import AppStore
from core.steering.workbench import Workbench


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    generation = replace(EXAMPLE.generation, max_new_tokens=4)
    monkeypatch.setattr(example, "EXAMPLE", replace(EXAMPLE, generation=generation))


@pytest.fixture
def saved(bench: Workbench, short: None, tmp_path: Path) -> dict[str, pd.DataFrame]:
    """The tables as they come back from the app's store."""
    store = AppStore(tmp_path)
    for name, table in run(bench, ExperimentOptions()).items():
        store.save_result("x", name, table)
    tables = {name: store.result("x", name) for name in TABLES}
    return {name: table for name, table in tables.items() if table is not None}


def test_restored_columns_are_those_generated(bench: Workbench, saved: dict[str, pd.DataFrame]) -> None:
    shown = restored(saved)
    assert shown is not None
    assert tuple(shown) == EXAMPLE.edits
    now = example.EXAMPLE
    scored = bench.score(now.topic)
    ways = [bench.way(name, scored, now.steering) for name in now.edits]
    made = bench.together(ways, [now.prompt], scored, now.generation).finish()
    for generation, way, figures in zip(made, ways, bench.figures(made, scored), strict=True):
        column = shown[way.name]
        assert column.generation.tokens == generation.tokens
        assert column.generation.text == generation.text
        assert column.generation.figures == generation.figures
        assert column.figures == pytest.approx(figures, nan_ok=True)
        assert column.notes == tuple(way.notes)


def test_other_settings_are_not_restored(saved: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    assert restored(saved) is not None
    now = example.EXAMPLE
    for other in (
        replace(now, prompt="Rain"),
        replace(now, edits=("none", "swap")),
        replace(now, steering=replace(now.steering, multiplier=2.0)),
        replace(now, generation=replace(now.generation, seed=2)),
    ):
        monkeypatch.setattr(example, "EXAMPLE", other)
        assert restored(saved) is None
