"""The cost experiment: its tables worked by hand, and every way of steering timed on a tiny model."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from core.evaluation.cost import PER_PROMPT, PER_TOPIC, SET_UP, cost_table, run, set_up_steps, steps_table
from core.evaluation.experiments import ExperimentOptions
from core.settings import GenerationSettings
from core.steering.workbench import Workbench
from core.text.prompts import Topic

LAW = Topic("law", "Law", ("A contract is void.", "The court rules."))
STEPS = pd.DataFrame(
    [
        {"task": SET_UP, "step": "reference embeddings", "seconds": 40.0, "tokens": 1_000},
        {"task": SET_UP, "step": "reference activations", "seconds": 20.0, "tokens": 1_000},
        {"task": PER_TOPIC, "step": "topic embeddings", "seconds": 0.5, "tokens": 10},
        {"task": PER_TOPIC, "step": "scoring", "seconds": 0.25, "tokens": 10},
        {"task": PER_TOPIC, "step": "topic embeddings", "seconds": 1.5, "tokens": 10},
        {"task": PER_TOPIC, "step": "scoring", "seconds": 0.75, "tokens": 10},
    ]
)
TIMES = pd.DataFrame({"edit": ["ft", "none", "sae", "clamp", "swap", "swap"], "per_token": [1, 1, 2, 3, 0.5, 1.5]})


def test_cost_adds_steps_and_scales_to_the_new_tokens() -> None:
    table = cost_table(STEPS, [4.0, 6.0], TIMES, new_tokens=10).set_index(["task", "edit"])
    assert table.loc[(SET_UP, "swap"), ["seconds", "n"]].tolist() == [60.0, 1]
    assert table.loc[(PER_TOPIC, "swap"), "seconds"] == (0.75 + 2.25) / 2
    assert table.loc[(PER_TOPIC, "swap"), ["low", "high", "n"]].tolist() == pytest.approx([0.75, 2.25, 2])
    assert table.loc[(PER_TOPIC, "ft"), ["seconds", "n"]].tolist() == [5.0, 2]
    assert table.loc[(PER_PROMPT, "swap"), ["seconds", "n"]].tolist() == [10.0, 2]
    assert table.loc[(PER_PROMPT, "clamp"), "seconds"] == 30.0


def test_cost_of_what_is_not_needed_is_nothing() -> None:
    table = cost_table(STEPS, [4.0], TIMES, new_tokens=10).set_index(["task", "edit"])
    for key in ((SET_UP, "ft"), (SET_UP, "none"), (PER_TOPIC, "sae")):
        assert table.loc[key, ["seconds", "n"]].tolist() == [0.0, 0]


def test_cost_stands_beside_the_papers() -> None:
    table = cost_table(STEPS, [4.0], TIMES, new_tokens=10).set_index(["task", "edit"])
    assert table.loc[(PER_TOPIC, "ft"), "published"] == 333.6
    assert table.loc[(PER_PROMPT, "swap"), "published"] == 6.263
    assert np.isnan(table.loc[(SET_UP, "ft"), "published"])  # the paper: N/A


def test_steps_are_means_per_token_beside_the_papers() -> None:
    table = steps_table(STEPS).set_index("step")
    assert table.loc["topic embeddings", ["seconds", "per_token"]].tolist() == [1.0, 0.1]
    assert table.loc["scoring", ["published_seconds", "published_per_token"]].tolist() == [3.72, 4e-4]
    assert table["task"].tolist() == [SET_UP, SET_UP, PER_TOPIC, PER_TOPIC]


def test_set_up_of_a_continued_build_is_not_known() -> None:
    meta = {"chunks_resumed": "3", **{f"seconds_{step}": "1" for step in ("embeddings", "activations", "assemble")}}
    store = SimpleNamespace(meta=meta, prompts=lambda: pd.DataFrame({"n_tokens": [5, 6]}))
    steps = set_up_steps(store)  # type: ignore[arg-type]
    assert steps["seconds"].isna().all()
    steps = pd.concat([steps, STEPS[STEPS["task"] == PER_TOPIC]])
    table = cost_table(steps, [4.0], TIMES, 10).set_index(["task", "edit"])
    assert np.isnan(table.loc[(SET_UP, "swap"), "seconds"])


def test_run_times_every_way_of_steering(bench: Workbench) -> None:
    options = ExperimentOptions(topics=(LAW,), n=2, generation=GenerationSettings(max_new_tokens=3))
    shares: list[float] = []
    tables = run(bench, options, lambda stage, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    cost = tables["cost"].set_index(["task", "edit"])
    assert len(cost) == 15
    measured = cost[cost["n"] > 0]
    assert (measured["seconds"] > 0).all()
    assert measured.loc[PER_PROMPT, "n"].to_dict() == dict.fromkeys(("ft", "none", "sae", "clamp", "swap"), 2)
    assert measured.loc[SET_UP].index.tolist() == ["clamp", "swap"]
    assert measured.loc[PER_TOPIC, "n"].to_dict() == {"ft": 1, "clamp": 5, "swap": 5}
    steps = tables["cost-steps"]
    assert steps["step"].tolist() == [
        *("reference embeddings", "reference activations", "store", "topic embeddings", "distances", "scoring")
    ]
    assert (steps["seconds"] > 0).all()
