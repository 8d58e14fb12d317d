"""The Texts page shows the saved texts and their means beside the paper's, and writes them again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.evaluation.experiments import ExperimentOptions
from core.evaluation.text_tables import FIGURES, compare, summarise
from core.results.app_store import AppStore
from core.results.published import published
from core.text.prompts import bundled_topics
from pages.parts.texts.examples import folded
from pages.parts.texts.means import best_column, main_columns
from pages.parts.texts.published import beside_published
from pages.parts.texts.running import cost_words, texts_due
from pages.shared.charts.colours import EDITS
from pages.shared.charts.text import topic_plane
from tests.pages.conftest import SETUP, OpenPage, checked, html_of

PERCENTILES = {"none": 60.0, "sae": 62.0, "clamp": 30.0, "swap": 50.0, "swap-s2": 20.0, "clamp-x1": 10.0}


def some_rows() -> pd.DataFrame:
    """Texts of two topics: three openings each, and two metaphors for medicine; a column differs by its percentile."""
    rows = []
    for topic, prompts, n in (
        ("medical", "metaphors", 2),
        ("cooking", "continuations", 3),
        ("law", "continuations", 3),
    ):
        for number in range(n):
            for edit, percentile in PERCENTILES.items():
                own = {"topic": topic, "prompts": prompts, "edit": edit, "strength": np.nan, "seed": number}
                text = {"prompt": f"Opening {number} & more", "text": f" {edit} <b>{topic}</b>"}
                figures = dict.fromkeys(FIGURES, 1.0) | {"topic_percentile": percentile + number, "n_tokens": number}
                figures |= {"concept_fluency": 2 - percentile / 50, "judged": np.nan, "perplexity": 5.0 + number}
                rows.append({**own, **text, **figures})
    return pd.DataFrame(rows)


@pytest.fixture
def saved(stores: Path) -> AppStore:
    results, rows = AppStore(stores), some_rows()
    results.save_result(SETUP, "text", summarise(rows))
    results.save_result(SETUP, "text-pairs", compare(rows, figures=("topic_percentile", "perplexity")))
    results.save_result(SETUP, "text-rows", rows)
    return results


def text_of(app: AppTest) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption])


def test_page_without_texts_offers_to_write_them(open_page: OpenPage) -> None:
    app = open_page("texts")
    assert "No texts have been written" in text_of(app)
    assert app.code[0].value == f"python -m core evaluate {SETUP} --what text"
    assert "At most" in text_of(app)


def test_page_opens_on_all_topics(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("texts")
    assert app.selectbox(key="texts_topic").value == "all"
    assert app.segmented_control(key="texts_prompts").value == "continuations"
    assert "The original's texts lie at topic percentile **61.0**" in text_of(app)
    assert "Best by concept and fluency: **Clamp at 1 ×**, at percentile **11.0 (10.0 to 12.0)**" in text_of(app)
    assert "Swap less Original: **-10 (-10 to -10)**, beyond chance" in text_of(app)
    assert "Mean over 3 prompts x 1 seed" in text_of(app)


def test_texts_are_read_side_by_side(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("texts", texts_topic="Law")
    assert app.selectbox(key="texts_prompt").value == "Opening 2 & more"  # the longest texts
    page = html_of(app)
    assert page.count("Opening 2 &amp; more</span> ") == len(PERCENTILES)
    assert " swap &lt;b&gt;law&lt;/b&gt;" in page
    assert "percentile 52.0 · perplexity 7.00 · accepted" in page
    app.selectbox(key="texts_prompt").set_value("Opening 0 & more").run()
    assert "percentile 50.0 · perplexity 5.00" in html_of(checked(app))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\n\ntwo", "one\n\ntwo"),
        ("one\n\n\n\ntwo", "one\n↵ × 4\ntwo"),
        ("one \n \n\t\n", "one\n↵ × 3\n"),
        ("one\ntwo\nthree\nfour", "one\ntwo\nthree\nfour"),
    ],
)
def test_long_runs_of_line_breaks_are_told_by_their_number(text: str, shown: str) -> None:
    assert folded(text) == shown


def test_means_stand_beside_the_papers(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("texts", texts_topic="Medicine")
    shown = app.dataframe[0].value.set_index(["figure", "edit"])
    assert shown.loc[("Perplexity", "Clamp"), "paper, layer 0"] == "136 ± 51.2"
    assert shown.loc[("Perplexity", "Clamp"), "here"] == "5.50 (5.00 to 6.00)"
    assert shown.loc[("Accepted", "Fine-tuned"), "here"] == "not run"
    assert "The 12 prompts are the paper's own." in text_of(app)


@pytest.mark.parametrize(("prompts", "table"), [("metaphors", 2), ("aligned", 7), ("unaligned", 8)])
def test_every_published_row_is_shown(prompts: str, table: int) -> None:
    paper = published("topic_tables").query("table == @table")
    means = summarise(some_rows())
    beside = beside_published(means[means["topic"] == "law"], prompts)
    assert len(beside) == len(paper[["row", "column"]].drop_duplicates())
    original = beside[(beside["edit"] == "none") & (beside["figure"] == "accepted")].iloc[0]
    assert original["paper, layer 0"] == original["paper, layer 6"]  # no SAE, no layer


def test_main_columns_are_the_papers_and_the_best() -> None:
    means = pd.DataFrame(
        {
            "edit": ["none", "sae", "swap-s2", "swap-s3", "clamp", "clamp-x1", "weight", "prompt"],
            "concept_fluency": [1.0, 0.9, 0.5, np.nan, 0.1, 1.5, 0.7, 1.1],
        }
    )
    assert main_columns(means) == ("none", "sae", "swap-s2", "clamp", "clamp-x1", "weight", "prompt")
    assert best_column(means) == "clamp-x1"
    assert best_column(means[means["edit"].isin(["none", "sae"])]) is None


def test_plane_has_a_point_with_intervals_for_each_column() -> None:
    means = summarise(some_rows())
    figure = topic_plane(means[(means["topic"] == "law")], "swap-s2")
    points = {trace.text[0] or trace.hovertemplate.split(":")[0]: trace for trace in figure.data}
    assert set(points) == {"Original", "SAE", "Clamp", "Swap", "Swap, sharpness 2", "Clamp at 1 ×"}
    swap = points["Swap"]
    assert (swap.x[0], swap.marker.color, swap.marker.symbol) == (51.0, EDITS["swap"], "circle")
    assert (swap.error_x.array[0], swap.error_y.arrayminus[0]) == pytest.approx((1.0, 1.0))
    assert points["Clamp at 1 ×"].marker.symbol == "circle-open"


# ---- running ----


def test_cost_counts_texts_and_fine_tunings() -> None:
    topics = tuple(bundled_topics()[name] for name in ("medical", "law"))
    options = ExperimentOptions(topics=topics, n=12, seeds=2, columns=("swap", "ft"), prompts=("main", "aligned"))
    assert texts_due(options) == ((12 + 10) * 3 * 2 * 2, 4)
    assert "264 texts" in cost_words(options, None)
    assert "4 fine-tunings" in cost_words(options, None)
    took = pd.DataFrame([{"texts": 10, "tokens": 64, "seconds": 100.0}])
    assert "264 texts, about **44 min** as fast as the last run" in cost_words(options, took)


def test_writing_saves_the_texts_and_shows_them(open_page: OpenPage, stores: Path) -> None:
    app = open_page("texts")
    app.multiselect(key="texts_run_topics").set_value(["law"])
    app.multiselect(key="texts_run_columns").set_value(["swap"])
    app.number_input(key="texts_run_n").set_value(2)
    app.number_input(key="texts_run_tokens").set_value(3)
    checked(app.run()).button(key="texts_run").click().run()
    rows = AppStore(stores).result(SETUP, "text-rows")
    assert rows is not None
    assert rows.groupby("edit").size().to_dict() == {"none": 2, "swap": 2}
    assert len(checked(app).get("plotly_chart")) == 2
    assert "as fast as the last run" in text_of(app)


def test_nothing_to_write_is_said(open_page: OpenPage) -> None:
    app = open_page("texts")
    app.multiselect(key="texts_run_columns").set_value([])
    assert "name at least one topic" in checked(app.run()).error[0].value
