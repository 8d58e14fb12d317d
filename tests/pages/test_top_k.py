"""The Top-k page computes a topic's curves when asked, and shows the saved ones of all topics."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.catalog import find_setup
from core.evaluation.topk import TOKEN_K, TopK, ahead, firing_on, top_k
from core.results.app_store import AppStore
from core.settings import ScoreSettings
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.text.prompts import Topic, bundled_topics, unaligned_prompts
from pages.shared.charts.topk import topk_curves
from pages.shared.tokens import counted_tokens
from tests.pages.conftest import MIN_PROMPTS, SETUP, OpenPage, checked, html_of
from tests.pages.figures import figure

SOUP = Topic("typed", "soup and bread", ("soup and bread",))


@pytest.fixture(scope="module")
def bench(built_stores: Path, user_setups: Path) -> Iterator[Workbench]:
    with Store.open(built_stores, SETUP) as store:
        yield open_workbench(find_setup(SETUP, user_setups), store)


def expected(bench: Workbench, topic: Topic) -> TopK:
    scored = bench.score(topic, ScoreSettings(min_prompts=MIN_PROMPTS))
    aligned, unaligned = firing_on(bench, topic.prompts), firing_on(bench, unaligned_prompts())
    return top_k(scored, aligned, unaligned, bench.store.density())


def run_model(app: AppTest) -> AppTest:
    """A user's own setup is loaded only when asked."""
    next(button for button in app.main.button if button.label == "Run the model").click().run()
    return checked(app)


def chips(app: AppTest) -> list[str]:
    """Tokens with their counts, as they are read: ` soup 1`."""
    return [unescape(re.sub("<[^>]+>", "", chip)) for chip in re.findall(r"<code.*?</code>", html_of(app))]


def text_of(app: AppTest) -> str:
    return "\n".join(element.value for element in [*app.main.markdown, *app.main.caption, *app.main.code])


def test_nothing_is_loaded_or_computed_unasked(open_page: OpenPage) -> None:
    app = open_page("top_k")
    assert {button.label for button in app.main.button} >= {"Run the model", "Compute"}
    assert f"evaluate {SETUP} --what topk" in text_of(app)
    assert len(app.main.get("plotly_chart")) == 0


def test_typed_topic_is_computed(open_page: OpenPage, bench: Workbench) -> None:
    app = run_model(open_page("top_k", topic="soup and bread"))
    table, summary = expected(bench, SOUP).drawn, expected(bench, SOUP).summary
    aligned, unaligned, difference = figure(app, 0)["data"]
    assert aligned["x"].tolist() == table["k"].tolist()
    assert (aligned["name"], unaligned["name"]) == ("the topic's text", "unaligned text")
    np.testing.assert_allclose(aligned["y"], table["aligned"])
    np.testing.assert_allclose(unaligned["y"], table["unaligned"])
    np.testing.assert_allclose(difference["y"], table["difference"])
    for trace, name in zip(figure(app, 1)["data"], ("neurons_aligned", "neurons_unaligned"), strict=True):
        np.testing.assert_allclose(trace["y"], table[name])
    html = html_of(app)
    assert f"{summary['area']:.3f} <small>chance {summary['area_chance']:.3f}</small>" in html
    for k in (4, 16, 64):
        assert f"difference at k = {k}</a></dt><dd>{summary[f'difference_{k}']:+.1%}</dd>" in html
    assert f"Only {summary['tokens_aligned']} tokens" in text_of(app)


def test_slider_and_link_choose_the_tokens(open_page: OpenPage, bench: Workbench) -> None:
    app = run_model(open_page("top_k", bundled="Law", topk_k="4"))
    tokens = expected(bench, bundled_topics()["law"]).tokens

    def at(k: int) -> list[str]:
        rows = tokens[tokens["k"] == k].itertuples()
        return [
            f"{row.token} {row.times}" + (f"/{row.occurrences}" if row.times < row.occurrences else "") for row in rows
        ]

    slider = app.select_slider(key="topk_k")
    assert slider.value == 4
    assert [int(k) for k in slider.options] == [k for k in TOKEN_K if k in set(tokens["k"])]
    assert chips(app) == at(4)
    slider.set_value(64).run()
    assert chips(checked(app)) == at(64)
    assert at(4) != at(64)
    assert not any("Only" in caption.value for caption in app.caption)


def test_another_topic_needs_no_second_asking(open_page: OpenPage, bench: Workbench) -> None:
    app = run_model(open_page("top_k", topic="law and courts"))
    app.text_area(key="topic").set_value("soup and bread").run()
    np.testing.assert_allclose(figure(checked(app), 0)["data"][0]["y"], expected(bench, SOUP).drawn["aligned"])


def test_topic_that_cannot_be_says_why_and_the_rest_stands(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("top_k", topic="x" * 30_000)
    assert "at most 20,000 are read" in app.error[0].value.replace("\\", "")
    assert len(app.main.get("plotly_chart")) == 2  # the small ones


# ---- all topics ----

SUMMARY = pd.DataFrame(
    {
        "topic": ["law", "my <b>own</b> topic"],
        "n_scored": [100, 100],
        "area": [0.125, 0.25],
        "area_linear": [0.0625, 0.5],
        "area_shuffled": [0.0, 0.0],
        "area_chance": [0.2, 0.03125],
        "difference_4": [-0.25, 0.5],
        "difference_16": [0.125, 0.25],
        "difference_64": [0.5, 0.75],
        "tokens_aligned": [900, 1_000],
        "tokens_unaligned": [1_800, 1_800],
    }
)


@pytest.fixture
def saved(stores: Path) -> AppStore:
    """The experiment of SETUP, as if computed for two topics."""
    results = AppStore(stores)
    curves = pd.DataFrame({"k": [1, 10, 100], "aligned": [0.1, 0.5, 1.0], "unaligned": [0.0, 0.25, 1.0]})
    curves = curves.assign(
        difference=lambda t: t["aligned"] - t["unaligned"], neurons_aligned=1.0, neurons_unaligned=0.5
    )
    halved = curves.assign(aligned=curves["aligned"] / 2)
    both = pd.concat([curves.assign(topic="law"), halved.assign(topic="my <b>own</b> topic")], ignore_index=True)
    tokens = pd.DataFrame({"topic": ["law"], "k": [4], "text": ["aligned"], "token": ["x"], "times": [1]})
    tables = {"topk": both, "topk-summary": SUMMARY, "topk-ahead": ahead(SUMMARY), "topk-tokens": tokens}
    for name, table in tables.items():
        results.save_result(SETUP, name, table)
    return results


def test_all_topics_are_summed_up(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("top_k")
    assert (
        "A topic's own text fires more than unaligned text at k = 4 in **1 of 2**, at k = 16 in **2 of 2**, at k = 64 "
        "in **2 of 2** topics. The area is above chance in **1 of 2**."
    ) in text_of(app)


def test_small_multiples_go_by_area(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("top_k")
    shares = [figure(app, number)["data"][0]["y"].tolist() for number in (0, 1)]
    assert shares == [[0.05, 0.25, 0.5], [0.1, 0.5, 1.0]]
    titles = [element.value for element in app.main.markdown if "  \n0." in element.value]
    assert titles == ["**my \\<b\\>own\\<\\/b\\> topic**  \n0.250", "**Law**  \n0.125"]


def test_table_has_every_topic(open_page: OpenPage, saved: AppStore) -> None:
    (shown,) = [table.value for table in open_page("top_k").main.dataframe]
    assert shown["topic"].tolist() == ["my <b>own</b> topic", "Law"]
    assert shown["area"].tolist() == [0.25, 0.125]
    assert shown["difference_4"].tolist() == [50, -25]  # percent


def test_tables_can_be_downloaded(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("top_k")
    files = {button.proto.help for button in app.main.get("download_button")}
    assert {f"{SETUP}-top-k-{table}.csv" for table in ("curves", "areas", "tokens")} <= files


# ---- what is drawn ----


def test_labels_keep_off_the_axis() -> None:
    table = pd.DataFrame({"k": [1, 100], "aligned": [0.0, 0.9], "unaligned": [0.0, 0.1], "difference": [0.0, 0.8]})
    lower = next(label for label in topk_curves(table, 4).layout.annotations if label.text == "unaligned text")
    assert (lower.x, lower.yanchor) == (2.0, "bottom")  # log10 of k
    high = table.assign(unaligned=[0.0, 0.5], difference=[0.0, 0.4])
    lower = next(label for label in topk_curves(high, 4).layout.annotations if label.text == "unaligned text")
    assert lower.yanchor == "top"


def test_counted_tokens_escape() -> None:
    html = counted_tokens([(" <b>", 2, 2), ("\n", 1_000, 3_000)])
    assert "&lt;b&gt;<small> 2</small>" in html
    assert "↵\n<small> 1,000/3,000</small>" in html
