"""The Distributions page draws the saved quantiles by what varies, and Kendall's tau as a heat map."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.evaluation.distributions import RANKINGS, STRAWMAN, agreement, quantiles, spread, with_mean
from core.results.app_store import AppStore
from core.scoring.scores import TopicScores
from core.settings import ScoreSettings
from pages.shared.charts.colours import MIN_CONTRAST, contrast, ramp
from pages.shared.charts.distributions import Spread, tau_heat_map, tau_matrix, violins
from tests.pages.conftest import OTHER_SETUP, SETUP, OpenPage, checked
from tests.pages.figures import figure

TOPICS = ("law", "my <b>own</b> topic")
SUMMARIES = ("sum", "max", "mean", "count")


def some_scores(seed: int, shift: float) -> TopicScores:
    """Fifty scored neurons and a rare one, with g in 0.5 + shift to 1.5 + shift."""
    g = np.random.default_rng(seed).beta(2, 4, 50) + 0.5 + shift
    score = (g.max() - g) / np.ptp(g)
    table = pd.DataFrame({"neuron": range(51), "score": [*score, np.nan], "g": [*g, 1.0]})
    return TopicScores(table, np.zeros(1, dtype=np.float32), ScoreSettings())


def all_scores(setup: str) -> dict[tuple[str, str, int], TopicScores]:
    """By topic, summary and number of prompts; with 20 prompts g is always lower."""
    keys = [(topic, summary, n) for topic in TOPICS for n in (6, 20) for summary in SUMMARIES]
    return {key: some_scores(len(setup) + i, 0.25 * (key[2] == 6)) for i, key in enumerate(keys)}


def taus() -> pd.DataFrame:
    pairs = list(combinations([*RANKINGS, STRAWMAN], 2))
    rows = [(topic, *pair, 0.5 + i / 400 + t / 10) for t, topic in enumerate(TOPICS) for i, pair in enumerate(pairs)]
    return pd.DataFrame(rows, columns=["topic", "first", "second", "tau"])


def save(results: AppStore, setup: str) -> None:
    scores = all_scores(setup)
    labels = [dict(zip(("topic", "summary", "prompts"), key, strict=True)) for key in scores]
    figures = [{**label, **spread(one)} for label, one in zip(labels, scores.values(), strict=True)]
    drawn = [quantiles(one).assign(**label) for label, one in zip(labels, scores.values(), strict=True)]
    results.save_result(setup, "distributions", pd.DataFrame(figures))
    results.save_result(setup, "distributions-quantiles", pd.concat(drawn, ignore_index=True))
    results.save_result(setup, "distributions-tau", with_mean(taus()))
    results.save_result(setup, "distributions-agreement", agreement(taus()))


@pytest.fixture
def saved(stores: Path) -> AppStore:
    results = AppStore(stores)
    save(results, SETUP)
    return results


def shown_violins(app: AppTest) -> dict[str, np.ndarray]:
    return {trace["y"][0]: np.asarray(trace["x"]) for trace in figure(app, 0)["data"] if trace["type"] == "violin"}


def expected(setup: str, topic: str, summary: str, prompts: int, value: str = "score") -> np.ndarray:
    return quantiles(all_scores(setup)[topic, summary, prompts])[value].to_numpy()


def text_of(app: AppTest) -> str:
    return "\n".join(element.value for element in [*app.main.markdown, *app.main.caption, *app.main.code])


def test_nothing_computed_says_how_to(open_page: OpenPage) -> None:
    app = open_page("distributions")
    assert f"evaluate {SETUP} --what distributions" in text_of(app)
    assert [button.label for button in app.main.button] == ["Compute"]
    assert len(app.main.get("plotly_chart")) == 0


def test_violins_of_topics_are_their_quantiles(open_page: OpenPage, saved: AppStore) -> None:
    shown = shown_violins(open_page("distributions"))
    assert list(shown) == ["Law", "my &lt;b&gt;own&lt;/b&gt; topic"]
    for values, topic in zip(shown.values(), TOPICS, strict=True):
        np.testing.assert_allclose(values, expected(SETUP, topic, "sum", 20))


@pytest.mark.parametrize(
    ("varies", "labels", "keys"),
    [
        ("summary", SUMMARIES, [("law", summary, 6) for summary in SUMMARIES]),
        ("prompts", ("6 prompts", "20 prompts"), [("law", "max", n) for n in (6, 20)]),
    ],
)
def test_what_varies_comes_from_the_link(
    varies: str, labels: tuple[str, ...], keys: list[tuple[str, str, int]], open_page: OpenPage, saved: AppStore
) -> None:
    asked = {"varies": varies, "value": "g", "summary": "max", "prompts": "6"}
    app = open_page("distributions", **{f"distributions_{name}": value for name, value in asked.items()})
    shown = shown_violins(app)
    assert tuple(shown) == labels
    for values, key in zip(shown.values(), keys, strict=True):
        np.testing.assert_allclose(values, expected(SETUP, *key, "g"))


def test_setups_with_results_stand_side_by_side(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("distributions", distributions_varies="setup", distributions_value="g")
    assert list(shown_violins(app)) == [SETUP]
    assert "evaluate SETUP --what distributions" in text_of(app)
    save(saved, OTHER_SETUP)
    shown = shown_violins(checked(app.run()))
    assert list(shown) == [SETUP, OTHER_SETUP]
    np.testing.assert_allclose(shown[OTHER_SETUP], expected(OTHER_SETUP, "law", "sum", 20, "g"))
    app.selectbox(key="distributions_topic").set_value(TOPICS[1]).run()
    np.testing.assert_allclose(shown_violins(checked(app))[SETUP], expected(SETUP, TOPICS[1], "sum", 20, "g"))


def test_effect_of_more_prompts_is_counted(open_page: OpenPage, saved: AppStore) -> None:
    scores = all_scores(SETUP)
    higher = sum(
        scores[topic, "sum", 20].table["score"].median() > scores[topic, "sum", 6].table["score"].median()
        for topic in TOPICS
    )
    caption = (
        f"the median score is higher in {higher} of 2 topics (the paper: scores shift up), the median g lower in 2."
    )
    assert caption in text_of(open_page("distributions"))


def test_heat_map_is_the_mean_or_a_topic(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("distributions")
    rankings = ["sum", "max", "mean", "count", STRAWMAN]
    tau = taus().set_index(["topic", "first", "second"])["tau"]

    def check(topic_tau: list[str]) -> None:
        shown = figure(app, 1)["data"][0]
        assert shown["x"] == shown["y"] == rankings
        for i, j in combinations(range(len(rankings)), 2):
            pair = (rankings[i], rankings[j])
            value = np.mean([tau[topic, *pair] for topic in topic_tau])
            assert shown["z"][i][j] == shown["z"][j][i] == pytest.approx(value)

    check(list(TOPICS))
    app.selectbox(key="distributions_tau_topic").set_value("law").run()
    checked(app)
    check(["law"])


def test_every_ranking_can_be_compared(open_page: OpenPage, saved: AppStore) -> None:
    shown = figure(open_page("distributions", distributions_rankings="all"), 1)
    assert shown["data"][0]["x"] == [name.replace(", ", ",<br>") for name in [*RANKINGS, STRAWMAN]]
    assert len([label for label in shown["layout"]["annotations"] if label["text"] == "1.00"]) == 13


def test_means_of_tau_stand_beside_the_paper(open_page: OpenPage, saved: AppStore) -> None:
    table = agreement(taus()).set_index("between")["tau"]
    assert (
        f"between summaries **{table['summaries']:.3f}**, between all settings of the score "
        f"**{table['all settings']:.3f}** (published: 0.741), between score and strawman "
        f"**{table['score and strawman']:.3f}**."
    ) in text_of(open_page("distributions"))


def test_every_table_can_be_downloaded(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("distributions")
    files = {button.proto.help for button in app.main.get("download_button")}
    names = ("score-quantiles", "score-distributions", "kendall-tau", "kendall-tau-means")
    assert files == {f"{SETUP}-{name}.csv" for name in names}


# ---- what is drawn ----


def test_bandwidth_is_that_of_all_neurons() -> None:
    values = np.linspace(0, 1, 200)
    wide, narrow = (Spread("x", values, n).bandwidth for n in (200, 200 * 2**5))
    assert wide == pytest.approx(
        1.059 * values.std() * 200**-0.2
    )  # of a flat distribution, narrower than the quartiles
    assert narrow == pytest.approx(wide / 2)


def test_violin_marks_the_median() -> None:
    drawn = violins([Spread("a", np.linspace(0, 1, 200), 4_000)], "score")
    assert drawn.data[-1].x[0] == pytest.approx(0.5)
    assert drawn.data[-1].customdata[0][2] == 4_000


def test_matrix_is_symmetric_and_leaves_out_other_rankings() -> None:
    table = pd.DataFrame([("a", "b", 0.5), ("a", "c", 0.25), ("b", "c", -0.5)], columns=["first", "second", "tau"])
    assert tau_matrix(table, ["c", "a"]).values.tolist() == [[1.0, 0.25], [0.25, 1.0]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_tau_stays_readable(theme: str) -> None:
    table = pd.DataFrame([("a", "b", -0.25)], columns=["first", "second", "tau"])
    labels = tau_heat_map(tau_matrix(table, ["a", "b"]), theme).layout.annotations  # type: ignore[arg-type]
    backgrounds = {"1.00": ramp(theme)[-1][0], "-0.25": ramp(theme)[0][0]}  # type: ignore[arg-type]
    assert [label.text for label in labels] == ["1.00", "-0.25", "-0.25", "1.00"]
    assert min(contrast(label.font.color, backgrounds[label.text]) for label in labels) >= MIN_CONTRAST
