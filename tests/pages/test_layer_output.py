"""The Layer output page shows the saved tables, and what to run where there are none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.evaluation.layer import COLUMNS, EDITED, FIGURES, contrasts, over_topics
from core.results.app_store import AppStore
from core.results.published import published
from pages.shared.charts.colours import ALIGNED, UNALIGNED, ramp
from pages.shared.charts.layer import changed_bars, delta_scatter, distance_map, intra_inter
from tests.pages.conftest import SETUP, OpenPage, checked, html_of

TOPICS = ("law", "cooking")
SETS = ("aligned", "unaligned")


def figures(edit: str, topic: str, name: str) -> dict[str, float]:
    """Numbers that tell every column apart."""
    base = 100 * COLUMNS.index(edit) + 10 * TOPICS.index(topic) + SETS.index(name)  # type: ignore[arg-type]
    return {figure: base + place / 4 for place, figure in enumerate(FIGURES)}


def saved_layer() -> dict[str, pd.DataFrame]:
    columns = [(topic, edit, name) for topic in TOPICS for edit in COLUMNS for name in SETS]
    summary = pd.DataFrame(
        [
            {"topic": topic, "edit": edit, "set": name, "n": 20, "tokens": 9}
            | {key + end: value + shift for key, value in figures(edit, topic, name).items() for end, shift in ENDS}
            | {"delta_p5": 0.0, "delta_p95": 1.0, "sae_error": 0.5, "correlation": float("nan")}
            for topic, edit, name in columns
        ]
    )
    edited = [column for column in columns if column[1] in EDITED]
    labels = [dict(zip(("topic", "edit", "set"), column, strict=True)) for column in edited]
    context = {"before": "the <b>old</b>", "token": " court", "after": " rules"}
    return {
        "layer": pd.concat([summary, over_topics(summary)], ignore_index=True),
        "layer-contrasts": contrasts(summary),
        "layer-changed": pd.DataFrame(
            [
                {**label, "neurons_changed": n, "tokens": n + 1, "share": (n + 1) / 6}
                for label in labels
                for n in (0, 1, 2)
            ]
        ),
        "layer-tokens": pd.DataFrame(
            [
                {**label, **context, **dict.fromkeys(FIGURES, 1.0), "reconstruction_delta": delta}
                for label in labels
                for delta in (-0.5, 0.0, 0.5)
            ]
        ),
        "layer-extremes": pd.DataFrame(
            [
                {**label, **context, "token": f" {end} {label['topic']}", **dict.fromkeys(FIGURES, 1.0)}
                | {"reconstruction_delta": delta, "end": end, "place": 1}
                for label in labels
                for end, delta in (("lowest", -7.25), ("highest", 8.5))
            ]
        ),
    }


ENDS = (("", 0.0), ("_low", -0.125), ("_high", 0.125))


@pytest.fixture
def with_layer(stores: Path) -> dict[str, pd.DataFrame]:
    tables = saved_layer()
    for name, table in tables.items():
        AppStore(stores).save_result(SETUP, name, table)
    return tables


def text_of(app: AppTest) -> str:
    return "\n".join(element.value for element in [*app.markdown, *app.caption])


def test_page_without_results_says_what_to_run(open_page: OpenPage) -> None:
    parts = {"Layer output": "layer", "Special tokens": "reconstruction", "Distances": "distances"}
    for part, name in parts.items():
        app = open_page("layer_output", layer_part=part)
        assert app.code[-1].value == f"python -m core evaluate {SETUP} --what {name}"
        assert [button.label for button in app.main.button] == ["Compute"]


def test_first_screen_shows_swap_over_all_topics(open_page: OpenPage, with_layer: dict[str, pd.DataFrame]) -> None:
    app = open_page("layer_output")
    # swap's numbers of law and of cooking, 200 and 210 on aligned text: their mean, and the two as the interval
    assert "Swap changes **205 (200 to 210)** neurons a token on aligned text" in text_of(app)
    shown = app.dataframe[0].value
    assert len(shown) == 2 * len(COLUMNS)
    assert "95% bootstrap interval over 2 topics" in text_of(app)


def test_topic_and_edit_of_a_link(open_page: OpenPage, with_layer: dict[str, pd.DataFrame]) -> None:
    app = open_page("layer_output", layer_topic="Cooking", layer_edit="Clamp", layer_set="unaligned")
    assert "Clamp changes **110 (110 to 110)** neurons a token on aligned text and **111" in text_of(app)
    assert "over prompts" in text_of(app)
    table = app.dataframe[0].value.set_index(["edit", "set"])
    assert table.loc[("Weight", "aligned"), "contamination_share"] == "311 (311 to 311)"
    assert html_of(app).count("lowest cooking") == 1
    assert "lowest law" not in html_of(app)
    assert "-7.25" in html_of(app)
    assert "&lt;b&gt;old" in html_of(app)


def test_claims_of_the_paper_are_compared(open_page: OpenPage, with_layer: dict[str, pd.DataFrame]) -> None:
    shown = open_page("layer_output").dataframe[1].value
    # aligned is one below unaligned in every topic; swap is 100 above clamp
    assert shown["here"].tolist() == ["the reverse", "yes", "yes", "the reverse", "the reverse"]
    assert shown["difference"][0] == "-1 (-1 to -1)"
    assert shown["topics"].tolist() == [2] * 5


def test_computing_saves_the_tables_and_shows_them(open_page: OpenPage, stores: Path) -> None:
    app = open_page("layer_output", layer_part="Distances")
    next(button for button in app.main.button if button.label == "Compute").click().run()
    table = AppStore(stores).result(SETUP, "distances")
    assert table is not None
    everyone = table[table["among"] == "all topics"]
    shown = checked(app).dataframe[0].value
    np.testing.assert_allclose(shown["intra"], everyone["intra"])
    paper = published("topic_distances").set_index("topic").loc["yelp"]
    yelp = shown.iloc[everyone["topic"].tolist().index("yelp")]
    assert (yelp["published_intra"], yelp["published_inter"]) == (paper["printed_inter"], paper["printed_intra"])

    examples = AppStore(stores).result(SETUP, "distances-examples")
    assert examples is not None
    app.selectbox(key="distances_topic").set_value("law").run()
    for row in examples[examples["topic"] == "law"].itertuples():
        assert f"<b>{row.distance:.2f}</b>" in html_of(checked(app))
    app.segmented_control(key="distances_among").set_value("the paper's four").run()
    assert len(checked(app).dataframe[0].value) == 4


# ---- figures ----


def test_bars_show_the_share_of_each_set() -> None:
    changed = pd.DataFrame(
        {"set": ["aligned", "aligned", "unaligned"], "neurons_changed": [2, 4, 2], "share": [0.25, 0.75, 1.0]}
    ).assign(tokens=[1, 3, 4])
    figure = changed_bars(changed)
    assert [(list(bar.x), list(bar.y)) for bar in figure.data] == [([2, 4], [0.25, 0.75]), ([2], [1.0])]
    assert [bar.marker.color for bar in figure.data] == [ALIGNED, UNALIGNED]
    assert figure.layout.xaxis.range is None
    constant = changed_bars(changed[changed["neurons_changed"] == 2])
    assert list(constant.layout.xaxis.range) == [-0.5, 7.5]


def test_scatter_draws_every_token_and_escapes_it() -> None:
    points = saved_layer()["layer-tokens"].query("topic == 'law' and edit == 'swap'")
    figure = delta_scatter(points)
    assert sorted(figure.data[0].y) == sorted(points["reconstruction_delta"])
    assert {row[0] for row in figure.data[0].customdata} == {"the &lt;b&gt;old&lt;/b&gt; <b>court</b> rules"}
    colours = {
        row[2]: colour for row, colour in zip(figure.data[0].customdata, figure.data[0].marker.color, strict=True)
    }
    assert colours == {"aligned": ALIGNED, "unaligned": UNALIGNED}
    assert len(figure.layout.shapes) == 1
    far = delta_scatter(points.assign(reconstruction_delta=points["reconstruction_delta"] + 1_000))
    assert len(far.layout.shapes) == 0  # 0 would squeeze the points


def test_scatter_draws_a_sample_of_many_tokens() -> None:
    points = saved_layer()["layer-tokens"].query("topic == 'law' and edit == 'swap'")
    assert len(delta_scatter(pd.concat([points] * 500)).data[0].y) == 2_000


def test_heat_map_runs_from_the_accent_to_the_background() -> None:
    pairs = pd.DataFrame(
        {"topic": ["b", "b", "a", "a"], "other": ["b", "a", "b", "a"], "distance": [1.0, 1.4, 1.4, 1.2]}
    )
    figure = distance_map(pairs, {"a": "Apples", "b": "Bees"}, "dark")
    (heat,) = figure.data
    assert (list(heat.x), list(heat.y)) == (["b", "a"], ["b", "a"])
    assert np.asarray(heat.z).tolist() == [[1.0, 1.4], [1.4, 1.2]]
    assert heat.colorscale[0][1] == ramp("dark")[-1][0]
    assert heat.colorscale[-1][1] == ramp("dark")[0][0]
    assert heat.customdata[0][1] == "Bees and Apples"


def test_distances_within_and_between_are_drawn_with_intervals() -> None:
    table = pd.DataFrame({"topic": ["a", "b"]})
    for column, value in (("intra", [1.0, 1.2]), ("inter", [1.4, 1.5])):
        table[column] = value
        table[f"{column}_low"], table[f"{column}_high"] = table[column] - 0.1, table[column] + 0.2
    inter, intra = intra_inter(table, {"a": "Apples", "b": "Bees"}).data
    assert (list(intra.y), list(intra.x)) == (["b", "a"], [1.2, 1.0])  # the closest topic on top
    np.testing.assert_allclose(intra.error_x.array, 0.2)
    np.testing.assert_allclose(inter.error_x.arrayminus, 0.1)


# ---- special tokens ----


def saved_reconstruction() -> dict[str, pd.DataFrame]:
    edits = pd.DataFrame(
        [
            {"topic": topic, "edit": edit, "kind": kind, "tokens": 90, "mse": 2.0**place, "mse_log2": place}
            | {"times_sae": 2.0**place + (kind == "special")}
            for topic in ("all", *TOPICS)
            for kind in ("ordinary", "special")
            for place, edit in enumerate(COLUMNS)
        ]
    )
    kinds = pd.DataFrame(
        [
            {"kind": kind, "tokens": 100, "mse": 0.5, "mse_log2": -1.0, "mse_pooled": 0.25}
            for kind in ("all", "special", "markers", "template", "first")
        ]
    )
    figures = {"sequences": 7, "tokens": 1_234, "explained_variance": 0.875, "l0": 32.0, "dead_share": 0.25}
    return {
        "reconstruction": kinds,
        "reconstruction-figures": pd.DataFrame([figures | {"ce_recovered": 0.96}]),
        "reconstruction-edits": edits,
    }


def test_special_tokens_under_the_edits_are_shown(stores: Path, open_page: OpenPage) -> None:
    for name, table in saved_reconstruction().items():
        AppStore(stores).save_result(SETUP, name, table)
    app = open_page("layer_output", layer_part="Special tokens")
    # clamp stands second: 2 times the SAE's error on ordinary tokens, 3 times on special ones; swap third
    assert "clamp's error is **3.00 times** the SAE's own, on ordinary ones 2.00 times" in text_of(app)
    assert "swap's on special tokens **5.00 times**" in text_of(app)
    assert "7 conversations, 1,234 tokens. Explained variance 0.875" in text_of(app)
    (kinds,) = [frame.value for frame in app.dataframe if "mse_pooled" in frame.value]
    assert kinds["kind"].tolist()[1] == "special tokens: role words and markers"
