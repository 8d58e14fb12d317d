"""The Compare page shows, filters, gives away and removes collected rows."""

import re
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.catalog import find_setup
from core.results.app_store import AppStore
from pages.parts.compare.kinds import of_kind
from pages.parts.compare.report import _report
from tests.pages.conftest import SETUP, OpenPage, checked

TEXT = {"kind": "text", "setup": "gpt2-topk", "topic": "law", "prompt": "The", "text": " judge", "seed": 1}
ROWS = (
    {**TEXT, "edit": "none", "distance": 1.25, "perplexity": 9.5},
    {**TEXT, "edit": "swap", "distance": 1.125, "perplexity": 12.0, "contamination": 3.5},
    {**TEXT, "edit": "swap", "topic": "=1+1", "distance": 1.5, "perplexity": 7.0, "contamination": 2.5},
    {"kind": "neuron", "setup": "gpt2-topk", "topic": "law", "neuron": 7, "score": 0.5, "g": 1.0, "case": "aligned"},
)


@pytest.fixture
def collected(stores: Path) -> AppStore:
    app_store = AppStore(stores)
    for row in ROWS:
        app_store.collect(row)
    return app_store


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def test_nothing_collected_says_how_to_collect(open_page: OpenPage) -> None:
    app = open_page("compare")
    assert any("**Collect** on the page Topic" in text.value for text in app.markdown)
    assert len(app.dataframe) == 0


def test_texts_and_neurons_have_tables_of_their_own_columns(open_page: OpenPage, collected: AppStore) -> None:
    app = open_page("compare")
    texts, neurons = app.dataframe(key="text_rows").value, app.dataframe(key="neuron_rows").value
    assert texts["distance"].tolist() == [1.25, 1.125, 1.5]
    assert "neuron" not in texts
    assert neurons[["neuron", "score", "case"]].to_dict("records") == [{"neuron": 7, "score": 0.5, "case": "aligned"}]
    assert "edit" not in neurons


def test_filters_leave_the_chosen_rows(open_page: OpenPage, collected: AppStore) -> None:
    app = open_page("compare")
    app.multiselect(key="text_edit").set_value(["swap"]).run()
    assert checked(app).dataframe(key="text_rows").value["distance"].tolist() == [1.125, 1.5]
    app.multiselect(key="text_topic").set_value(["law"]).run()
    assert checked(app).dataframe(key="text_rows").value["distance"].tolist() == [1.125]


def test_filter_of_a_link(open_page: OpenPage, collected: AppStore) -> None:
    app = open_page("compare", text_edit="none")
    assert app.dataframe(key="text_rows").value["edit"].tolist() == ["none"]


def test_selected_rows_are_removed(open_page: OpenPage, collected: AppStore) -> None:
    app = open_page("compare")
    app.session_state["text_rows"] = {"selection": {"rows": [1], "columns": [], "cells": []}}
    checked(app.run()).button(key="text_remove").click().run()
    assert checked(app).dataframe(key="text_rows").value["distance"].tolist() == [1.25, 1.5]
    assert collected.collected()["distance"].dropna().tolist() == [1.25, 1.5]


def test_nothing_selected_removes_nothing(open_page: OpenPage, collected: AppStore) -> None:
    assert open_page("compare").button(key="text_remove").disabled


def test_clear_removes_what_is_shown(open_page: OpenPage, collected: AppStore) -> None:
    app = open_page("compare", text_edit="swap")
    assert "Remove all 2 rows shown" in labels(app)
    app.button(key="text_clear").click().run()
    assert sorted(collected.collected()["kind"]) == ["neuron", "text"]
    assert collected.collected()["edit"].dropna().tolist() == ["none"]


def test_file_of_collected_rows_that_is_damaged_says_so(open_page: OpenPage, stores: Path) -> None:
    (stores / "app.duckdb").write_bytes(b"this is no database" * 1_000)
    app = open_page("compare")
    assert "is damaged" in app.error[0].value.replace("\\", "")


# ---- results of experiments ----

MEANS = ("distance", "topic_percentile", "perplexity", "accepted", "contamination", "contamination_share")
MORE_MEANS = ("distinct_2", "distinct_3", "repetition", "concept", "fluency", "concept_fluency")


def text_row(topic: str, edit: str, distance: float) -> dict[str, object]:
    row: dict[str, object] = {"topic": topic, "prompts": "continuations", "edit": edit, "n": 3, "seeds": 2}
    for name in (*MEANS, *MORE_MEANS):
        value = None if name == "accepted" else distance
        row |= {name: value, f"{name}_low": value, f"{name}_high": value}
    return row | {"distance_low": distance - 0.1, "distance_high": distance + 0.2}


@pytest.fixture
def saved(stores: Path) -> AppStore:
    app_store = AppStore(stores)
    rows = [
        text_row(topic, edit, distance)
        for topic, shift in (("law", 0.0), ("all", 0.5))
        for edit, distance in (("none", 1.25 + shift), ("swap", 1.125 + shift), ("swap-shuffled", 1.5 + shift))
    ]
    pair = {"prompts": "continuations", "first": "swap", "second": "none", "figure": "distance", "n": 3}
    pairs = [
        {**pair, "topic": "law", "difference": -0.125, "low": -0.25, "high": -0.0625},
        {**pair, "topic": "all", "difference": 0.5, "low": -0.25, "high": 1.0},
    ]
    app_store.save_result("gpt2-topk", "text", pd.DataFrame(rows))
    app_store.save_result("gpt2-topk", "text-pairs", pd.DataFrame(pairs))
    app_store.save_result("gpt2-topk", "cost", pd.DataFrame({"task": ["set-up"], "seconds": [2.5]}))
    app_store.save_result("qwen2-jumprelu", "layer", pd.DataFrame({"topic": ["law"]}))
    return app_store


def test_results_of_none_say_what_to_run(open_page: OpenPage) -> None:
    app = open_page("compare")
    assert "No experiment has been run" in " ".join(text.value for text in app.markdown)
    assert app.code[0].value == "python -m core evaluate gpt2-topk --what text"


def test_results_open_on_the_texts(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("compare")
    assert app.selectbox(key="result").value == "text"
    assert app.dataframe[0].value["edit"].tolist() == ["none", "swap", "swap-shuffled"] * 2


def test_results_list_the_tables_of_the_setup_alone(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("compare", result="cost")
    assert app.selectbox(key="result").options == ["cost", "text", "text-pairs"]
    assert app.dataframe[0].value.to_dict("records") == [{"task": "set-up", "seconds": 2.5}]
    assert any(
        "(Topic Alignment paper, Table 3). 1 row; saved 20" in caption.value.replace("\\", "")
        for caption in app.caption
    )


def test_result_of_a_link_is_downloaded_in_every_format(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("compare", result="text-pairs")
    labels = [button.label for button in app.get("download_button")]
    assert labels == ["Report", "CSV", "Markdown", "LaTeX", "Parquet", "Excel"]
    assert app.dataframe[0].value["difference"].tolist() == [-0.125, 0.5]


def test_other_setup_has_its_own_results(open_page: OpenPage, saved: AppStore) -> None:
    app = open_page("compare", setup="qwen2-jumprelu")
    assert app.selectbox(key="result").options == ["layer"]


# ---- columns and labels ----


def test_chosen_columns_are_shown_and_exported_in_their_order(open_page: OpenPage, collected: AppStore) -> None:
    app = open_page("compare")
    chosen = app.multiselect(key="text_columns")
    assert chosen.value[:2] == ["edit", "topic"]
    chosen.set_value(["text", "edit"]).run()
    copied = next(code.value for code in checked(app).code if code.value.startswith("|"))
    assert copied.splitlines()[0] == "| text | edit |"
    app.multiselect(key="text_columns").set_value([]).run()
    assert any("max_new_tokens" in code.value or "distance" in code.value for code in checked(app).code)


def test_labels_are_listed(open_page: OpenPage, stores: Path) -> None:
    assert any("None on" in text.value for text in open_page("compare").markdown)
    AppStore(stores).save_labels(SETUP, {3: "about law"}, "user")
    shown = next(table.value for table in checked(open_page("compare")).dataframe if "label" in table.value)
    assert shown[["neuron", "label", "source"]].to_numpy().tolist() == [[3, "about law", "user"]]


def test_labels_come_from_a_file_and_a_wrong_file_says_why(open_page: OpenPage, stores: Path) -> None:
    app = open_page("compare")
    app.file_uploader(key="labels_file").set_value(("l.csv", b"neuron,label\n3,about law\n", "text/csv")).run()
    assert AppStore(stores).labels(SETUP)["label"].tolist() == ["about law"]
    assert checked(app).info[0].value == r"1 label imported\."
    app.file_uploader(key="labels_file").set_value(("l.csv", b"neuron,label\n999,x\n", "text/csv")).run()
    assert "neuron 999 is out of range" in checked(app).info[0].value


def test_report_has_what_is_shown_the_setup_and_its_results(
    open_page: OpenPage, collected: AppStore, saved: AppStore, user_setups: Path
) -> None:
    app = open_page("compare")
    assert "Report" in [button.label for button in app.get("download_button")]
    setup = find_setup(SETUP, user_setups)
    rows = {title: of_kind(collected.collected(), kind) for kind, title in (("text", "Texts"), ("neuron", "Neurons"))}
    report = _report(setup, rows).decode()
    for heading in ("Texts", "Neurons", "Means over continuations"):
        assert f"<h2>{heading}</h2>" in report
    assert f"<dt>setup</dt><dd>{SETUP}</dd>" in report
    assert re.search(r"<dt>versions</dt><dd>python 3\.\d+\.\d+, torch ", report)
    assert "Collected: 3 rows. Seeds: 1." in report
    assert report.count('class="plotly-graph-div"') == 1  # perplexity's
    assert "cdn.plot.ly" not in report.split("</head>")[1]
