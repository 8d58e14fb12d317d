"""The Cost page shows the saved times beside the paper's."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.evaluation.cost import cost_table, steps_table
from core.results.app_store import AppStore
from pages.parts.cost.summary import topics_to_repay
from pages.shared.charts.cost import row_title, seconds_dots
from tests.pages.conftest import SETUP, OpenPage

STEPS = pd.DataFrame(
    [
        {"task": "set-up", "step": "reference embeddings", "seconds": 90.0, "tokens": 1_000},
        {"task": "per topic", "step": "scoring", "seconds": 0.5, "tokens": 10},
        {"task": "per topic", "step": "scoring", "seconds": 1.5, "tokens": 10},
    ]
)
TIMES = pd.DataFrame({"edit": ["ft", "none", "sae", "clamp", "swap"], "per_token": [0.1, 0.1, 0.2, 0.3, 0.25]})


@pytest.fixture
def cost() -> pd.DataFrame:
    return cost_table(STEPS, [20.0, 22.0], TIMES, new_tokens=10)


@pytest.fixture
def saved(stores: Path, cost: pd.DataFrame) -> AppStore:
    results = AppStore(stores)
    results.save_result(SETUP, "cost", cost)
    results.save_result(SETUP, "cost-steps", steps_table(STEPS))
    return results


def text_of(app: AppTest) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption])


def test_page_without_times_says_what_to_run(open_page: OpenPage) -> None:
    app = open_page("cost")
    assert app.code[0].value == f"python -m core evaluate {SETUP} --what cost"
    assert [button.label for button in app.main.button] == ["Compute"]


def test_times_stand_beside_the_papers(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("cost")
    assert "**1.00 s** to score and **21.0 s** to fine-tune on" in text_of(app)
    assert "**2.50** times as long as unsteered" in text_of(app)
    assert "paid for itself after **5 topics**" in text_of(app)
    tasks = app.dataframe[0].value.set_index(["task", "edit"])
    assert tasks.loc[("per topic", "Fine-tuned"), ["here", "published"]].tolist() == ["21.0 (20.0 to 22.0)", 333.6]
    assert tasks.loc[("per topic", "Original"), "here"] == "not needed"
    steps = app.dataframe[1].value.set_index("step")
    assert steps.loc["scoring", ["seconds", "published_seconds", "per_token"]].tolist() == [1.0, 3.72, 0.1]


def test_chart_has_a_dot_and_a_ring_for_what_takes_time(cost: pd.DataFrame) -> None:
    figure = seconds_dots(cost)
    drawn = {(trace.y[0], trace.marker.symbol): trace.x[0] for trace in figure.data}
    assert drawn["a topic, Fine-tuned", None] == 21.0
    assert drawn["a topic, Fine-tuned", "circle-open"] == 333.6
    assert row_title("per topic", "none") not in {title for title, _ in drawn}  # takes nothing


def test_set_up_that_is_not_known_is_never_repaid(cost: pd.DataFrame) -> None:
    assert topics_to_repay(cost) == 5
    unknown = cost.assign(seconds=cost["seconds"].mask(cost["task"] == "set-up", np.nan))
    assert np.isnan(topics_to_repay(unknown))
    assert {trace.marker.symbol for trace in seconds_dots(unknown).data if "set-up" in trace.y[0]} == {"circle-open"}
