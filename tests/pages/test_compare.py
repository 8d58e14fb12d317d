"""The Compare page shows, filters, gives away and removes collected rows."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.app_store import AppStore
from tests.pages.conftest import OpenPage, checked

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
