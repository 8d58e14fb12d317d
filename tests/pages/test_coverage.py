"""The Coverage page offers to compute what is missing, then shows it; its figures show the saved tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.evaluation.coverage import summarise
from core.evaluation.reference import DISJOINT, UNSEEN, suggested_sizes
from core.results.app_store import AppStore
from core.store.reader import Store
from pages.shared.charts import coverage as charts_coverage
from pages.shared.charts.colours import ramp
from tests.pages.conftest import OTHER_SETUP, SETUP, OpenPage, checked

PART = {"coverage": "Coverage", "reference": "Reference set"}


def samples(whole: float) -> pd.DataFrame:
    """A table `coverage`: two sizes, then the whole set with that share of the neurons."""
    rows = [(64, sample, 50, 0.5 + 0.01 * sample, 0.25) for sample in range(1, 6)]
    rows += [(96, sample, 60, 0.75, 0.5) for sample in range(1, 6)] + [(96, 0, 96, whole, 0.625)]
    return pd.DataFrame(rows, columns=["size", "sample", "prompts", "share_1", "share_20"])


def save_coverage(results: AppStore, setup: str, whole: float) -> None:
    results.save_result(setup, "coverage", samples(whole))
    results.save_result(setup, "coverage-summary", summarise(samples(whole)))
    bins = pd.DataFrame({"low": [0, 1, 2], "high": [0, 1, 2], "neurons": [2, 30, 160]})
    both = pd.concat([bins.assign(measure=measure) for measure in ("tokens", "prompts")], ignore_index=True)
    results.save_result(setup, "coverage-tokens", both)
    results.save_result(setup, "coverage-dead", pd.DataFrame({"neuron": [7, 90], "promoted": [[" a", "b"], ["c"]]}))


TAU = pd.DataFrame(
    [
        (design, 1, size, topic, 0.95, size / 100 - gap, 0.4)
        for design, gap in (("random", 0.0), ("contrastive", 0.1), (UNSEEN, 0.2), (DISJOINT, 0.3))
        for size in (32, 64)
        for topic in ("law", "medical")
    ],
    columns=["design", "sample", "size", "topic", "share", "tau", "top"],
)
PAIRS = pd.DataFrame(
    {
        "rank_first": [1, 1, 2],
        "first": [5, 5, 9],
        "rank_second": [2, 3, 3],
        "second": [9, 2, 2],
        "prompts_first": [10, 10, 20],
        "prompts_second": [20, 30, 30],
        "both": [6, 2, 10],
        "jaccard": [0.25, 2 / 38, 0.25],
        "topic": ["law"] * 3,
    }
)


@pytest.fixture
def saved(stores: Path) -> AppStore:
    """Both experiments of SETUP, as if computed."""
    results = AppStore(stores)
    save_coverage(results, SETUP, 0.875)
    results.save_result(SETUP, "reference-tau", TAU)
    results.save_result(SETUP, "reference-size", suggested_sizes(TAU))
    both_topics = pd.concat([PAIRS, PAIRS.assign(topic="medical", first=PAIRS["first"] + 50)], ignore_index=True)
    results.save_result(SETUP, "reference-coactivation", both_topics)
    return results


def text_of(app: AppTest) -> str:
    return "\n".join(element.value for element in [*app.main.markdown, *app.main.caption, *app.main.code])


def table_with(app: AppTest, column: str) -> pd.DataFrame:
    """The one table that has a column of that name."""
    (table,) = [table.value for table in app.main.dataframe if column in table.value]
    return table


@pytest.mark.parametrize("name", ["coverage", "reference"])
def test_missing_results_are_offered(name: str, open_page: OpenPage) -> None:
    app = open_page("coverage", coverage_part=PART[name])
    assert "Not computed for this setup yet" in text_of(app)
    assert f"python -m core evaluate {SETUP} --what {name}" in text_of(app)
    assert len(app.main.get("plotly_chart")) == 0


def test_computing_shows_the_figures(open_page: OpenPage, store: Store, stores: Path) -> None:
    app = open_page("coverage")
    app.button(key="run coverage").click().run()
    known = checked(app) and store.neurons()
    alive, often = (known["prompts"] >= 1).mean(), (known["prompts"] > 20).mean()
    assert f"**{alive:.1%}** of {store.d_sae:,} neurons fire on at least one of 96 reference prompts" in text_of(app)
    assert f"**{often:.1%}** on more than 20" in text_of(app)
    assert table_with(app, "promoted")["neuron"].tolist() == known[known["prompts"] == 0]["neuron"].tolist()
    assert len(app.main.get("plotly_chart")) == 3
    tables = {"coverage", "coverage-summary", "coverage-tokens", "coverage-dead"}
    assert set(AppStore(stores).results()["what"]) == tables


def test_reference_sets_are_computed_and_shown(open_page: OpenPage, stores: Path) -> None:
    app = open_page("coverage", coverage_part=PART["reference"])
    app.button(key="run reference").click().run()
    saved_sizes = AppStore(stores).result(SETUP, "reference-size")
    assert saved_sizes is not None
    shown = table_with(checked(app), "design")
    assert shown["design"].tolist() == saved_sizes["design"].tolist()
    np.testing.assert_allclose(shown["tau"], saved_sizes["tau"])
    assert len(app.main.get("plotly_chart")) == 2


def test_other_setup_stands_beside(open_page: OpenPage, saved: AppStore) -> None:
    assert "Other setups can stand beside this one" in text_of(open_page("coverage"))
    save_coverage(saved, OTHER_SETUP, 0.5)
    app = open_page("coverage", coverage_beside=OTHER_SETUP)
    assert app.multiselect(key="coverage_beside").options == [OTHER_SETUP]
    html = "".join(block.value for block in app.main.get("html"))
    assert SETUP in html
    assert OTHER_SETUP in html


def test_suggestions_are_said_with_their_rules(open_page: OpenPage, saved: AppStore) -> None:
    said = text_of(open_page("coverage", coverage_part=PART["reference"]))
    assert "No smaller set that was tried keeps **the whole set's ranking**: a mean tau of at least 0.90." in said
    # two disjoint sets of 64 agree by 0.64 - 0.3; contrastive passes that at 64, random, first in the table, too
    assert "**64** of 96 prompts (random) keep **what is reproducible of it**: mean tau 0.64" in said
    assert "two disjoint random sets of 64 agree with each other by only 0.34" in said


def test_topic_of_a_link_chooses_the_pairs(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("coverage", coverage_part=PART["reference"], coverage_topic="Medicine")
    pairs = table_with(app, "jaccard")
    assert [address.split("neuron=")[1].split("#")[0] for address in pairs["first"]] == ["55", "59", "55"]
    assert pairs["jaccard"].tolist() == pytest.approx([0.25, 0.25, 2 / 38])


def test_every_table_can_be_downloaded(open_page: OpenPage, saved: AppStore) -> None:
    for part, n in (("Coverage", 3), ("Reference set", 3)):
        assert len(open_page("coverage", coverage_part=part).get("download_button")) == n


# ---- figures ----


def test_curves_show_mean_and_bars_and_the_whole_set() -> None:
    figure = charts_coverage.coverage_curves({"a": summarise(samples(0.875)), "b": summarise(samples(0.5))}, "share_1")
    line, whole = figure.data[0], figure.data[1]
    np.testing.assert_allclose(line.y, [0.53, 0.75])
    np.testing.assert_allclose(line.error_y.array, [0.02, 0], atol=1e-12)
    np.testing.assert_allclose(line.error_y.arrayminus, [0.02, 0], atol=1e-12)
    assert (list(whole.x), list(whole.y)) == ([96], [0.875])
    assert len({trace.line.color for trace in figure.data[::2]}) == 2


def test_histogram_has_dead_neurons_apart() -> None:
    bins = pd.DataFrame({"measure": "tokens", "low": [0, 1, 2, 23], "high": [0, 1, 22, 31], "neurons": [3, 4, 5, 6]})
    (bars,) = charts_coverage.neuron_histogram(bins).data
    assert list(bars.y) == [3, 4, 5, 6]
    assert list(bars.customdata) == ["0", "1", "2 to 22", "23 to 31"]
    assert bars.marker.color[0] not in bars.marker.color[1:]


def test_set_that_fires_together_is_steered_with(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("coverage", coverage_part="Reference set", coverage_topic="Law")
    # 5 and 9 fire together in a quarter of their prompts; 2 with both of them in less than 0.152 on average
    button = next(button for button in app.main.button if button.label.startswith("Steer with these"))
    assert button.label == "Steer with these 3"
    checked(button.click().run())
    assert app.title[0].value.startswith("What does each way of steering do")
    assert app.query_params["added"] == "5 9 2"


def test_design_curves_keep_their_sizes_in_sight() -> None:
    means = pd.DataFrame(
        {"design": ["random", "random", DISJOINT], "size": [64, 128, 64], "share": 0.9, "top": [0.1, 0.2, 0.1]}
    ).assign(tau=[0.5, 0.75, 0.25], tau_low=[0.25, 0.5, 0.25], tau_high=[0.75, 1.0, 0.5])
    by_design = {trace.hovertemplate[3:9]: trace for trace in charts_coverage.design_curves(means, "tau", 200).data}
    assert [row[0] for row in by_design["random"].customdata] == [64, 128]
    assert list(by_design["random"].error_y.arrayminus) == [0.25, 0.25]
    assert by_design["disjoi"].line.dash == "dot"
    shares = charts_coverage.design_curves(means, "top", 200).data
    assert list(shares[0].y) == [0.1, 0.2]
    assert shares[0].error_y.array is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_coactivation_map_is_symmetric_and_in_order(theme: str) -> None:
    words = {2: "<b>", 5: "five", 9: "nine"}
    figure = charts_coverage.coactivation_map(PAIRS, words, theme)  # type: ignore[arg-type]
    cells, itself = figure.data
    assert list(cells.x) == list(cells.y) == ["5", "9", "2"]
    nan = np.nan
    expected = [[nan, 0.25, 2 / 38], [0.25, nan, 0.25], [2 / 38, 0.25, nan]]
    np.testing.assert_allclose(np.array(cells.z, dtype=float), expected)
    assert np.isfinite(np.array(itself.z, dtype=float)).tolist() == np.eye(3, dtype=bool).tolist()
    assert "&lt;b&gt;" in cells.customdata[0][2]
    assert [colour for _, colour in cells.colorscale] == [colour for colour, _ in ramp(theme)]  # type: ignore[arg-type]
