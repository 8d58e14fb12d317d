"""The My text page shows what core finds on a text, opens with a saved one, and takes any input."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.catalog import find_setup
from core.evaluation import inspected
from core.evaluation.experiments import ExperimentOptions
from core.evaluation.inspected import EXAMPLE_TEXT, restored
from core.evaluation.running import run_and_save
from core.inspection import Inspection, fired_on, inspection_of
from core.results.app_store import AppStore
from core.settings import ScoreSettings
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.text.prompts import parse_topic
from pages.parts.my_text.tokens import shades, text_html
from pages.shared.columns import number
from pages.shared.names import neuron_names
from tests.fixtures.autoencoders import D_SAE
from tests.pages.conftest import MIN_PROMPTS, OTHER_SETUP, SETUP, OpenPage, checked, html_of

PAGE = "my_text"
TEXT = "The judge read the law aloud & left."


@pytest.fixture
def bench(store: Store) -> Iterator[Workbench]:
    return open_workbench(find_setup(SETUP), store)


@pytest.fixture
def found(bench: Workbench) -> Inspection:
    scored = bench.score(parse_topic("heart surgery"), ScoreSettings(min_prompts=MIN_PROMPTS))
    return inspection_of(fired_on(bench, TEXT), scored.scores)


def opened(open_page: OpenPage, **query: str):
    """The page with a text, its model loaded."""
    app = open_page(PAGE, **query)
    for pressed in [b for b in app.button if b.label == "Run the model"]:
        pressed.click().run()
    return checked(app)


def listed(app) -> pd.DataFrame:
    return app.dataframe(key="text_neurons").value


def test_tables_are_those_of_core(open_page: OpenPage, found: Inspection) -> None:
    app = opened(open_page, text=TEXT)
    shown = listed(app)
    for column in ("sum", "max", "tokens", "rank", "score"):
        np.testing.assert_allclose(shown[column], found.neurons[column], rtol=1e-4)
    assert [f"neuron={n}#{n}" in name for n, name in zip(found.neurons["neuron"], shown["name"], strict=True)]


def test_text_is_shaded_by_the_best_neuron_of_the_topic(open_page: OpenPage, found: Inspection, store: Store) -> None:
    html = html_of(opened(open_page, text=TEXT, shade_text="neuron"))
    best = int(found.neurons.loc[found.neurons["rank"].idxmin(), "neuron"])
    largest = found.neurons.set_index("neuron").loc[best, "max"]
    assert f"activation of {neuron_names(store)[best]}".replace('"', "&quot;") in html
    assert f"</span> {number(largest)}" in html
    assert "&amp;" in html  # the text's own, escaped
    assert len(re.findall(r'<label class="ss ss-10"', html)) == 1  # its largest activation


@pytest.mark.parametrize(("shading", "column"), [("topic score", "topic_share"), ("contamination", "contamination")])
def test_text_is_shaded_by_the_topic(open_page: OpenPage, found: Inspection, shading: str, column: str) -> None:
    html = html_of(opened(open_page, text=TEXT, shade_text=shading))
    values = found.tokens[column].dropna()
    low = number(values.min()) if shading == "topic score" else "0"
    assert re.search(rf": {low} <span class=\"ss-ramp\">.*</span> {number(values.max())}</p>", html)
    steps = [int(step) for step in re.findall(r'<label class="ss ss-(\d+)"', html)]
    assert len(steps) == len(values)
    assert max(steps) == 10
    assert (min(steps) == 0) == (shading == "topic score")


def test_every_token_says_its_strongest_neurons_by_name_and_links_to_them(
    open_page: OpenPage, found: Inspection, store: Store
) -> None:
    html = html_of(opened(open_page, text=TEXT))
    names = neuron_names(store)
    assert html.count('<input type="radio" name="ss-pin">') == len(found.tokens)
    row = found.tokens.iloc[3]
    first = row["neurons"][0]
    assert f"{names[first]}: {number(row['activations'][0])}\n".replace('"', "&quot;") in html
    assert f"setup={SETUP}&amp;text=" not in html  # the text stays on this page
    assert re.search(rf'href="\./\?setup={SETUP}&amp;[^"]*neuron={first}"', html)


def test_clicked_row_shades_the_text(open_page: OpenPage, found: Inspection) -> None:
    app = opened(open_page, text=TEXT, shade_text="contamination")
    app.session_state["text_neurons"] = {"selection": {"rows": [], "columns": [], "cells": [[2, "sum"]]}}
    app.session_state["neuron"] = int(found.neurons["neuron"][2])  # AppTest does not call a table's callback
    app.session_state["shade_text"] = "neuron"
    html = html_of(checked(app.run()))
    assert f"</span> {number(found.neurons['max'][2])}" in html


def test_neuron_of_a_link_that_does_not_fire_shades_nothing(open_page: OpenPage, found: Inspection) -> None:
    silent = next(n for n in range(D_SAE) if n not in set(found.neurons["neuron"]))
    app = opened(open_page, text=TEXT, shade_text="neuron", neuron=str(silent))
    assert set(re.findall(r'<label class="ss ss-(\d+)"', html_of(app))) == {"0"}
    assert next(b for b in app.button if b.label == "Collect").disabled


def test_collected_neuron_has_its_figures_on_the_text(open_page: OpenPage, found: Inspection, stores: Path) -> None:
    neuron = int(found.neurons["neuron"][0])
    app = opened(open_page, text=TEXT, neuron=str(neuron))
    next(b for b in app.button if b.label == "Collect").click().run()
    row = AppStore(stores).collected().iloc[0]
    assert (row["kind"], row["neuron"], row["text"], row["topic"]) == ("inspected", neuron, TEXT, "heart surgery")
    assert row["sum"] == pytest.approx(found.neurons["sum"][0], rel=1e-4)
    compare = checked(open_page("compare"))
    assert compare.dataframe(key="inspected_rows").value["neuron"].tolist() == [neuron]


def test_chat_goes_through_the_template(open_page: OpenPage) -> None:
    app = opened(open_page, setup=OTHER_SETUP, text="user: Who rules?\nassistant: A court.", read_as="chat")
    html = html_of(app)
    assert "&lt;|im_start|&gt;" in html
    said = "".join(re.findall(r'<label class="ss ss-\d+"[^>]*><input[^>]*>([^<]*)<', html))
    assert said == "Who rules?A court."


def test_page_opens_with_the_saved_text_without_the_model(
    open_page: OpenPage, bench: Workbench, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_and_save("inspected", bench, ExperimentOptions(), AppStore(stores), SETUP)
    monkeypatch.setattr("pages.parts.my_text.fired.workbench", lambda *_: pytest.fail("a model is loaded"))
    app = open_page(PAGE)
    assert app.text_area(key="text").value == EXAMPLE_TEXT
    expected = inspection_of(fired_on(bench, EXAMPLE_TEXT)).neurons
    np.testing.assert_allclose(listed(app)["sum"], expected["sum"], rtol=1e-6)


def test_saved_text_of_another_version_is_not_shown(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = inspected.run(bench, ExperimentOptions())
    assert restored(tables) is not None
    monkeypatch.setattr(inspected, "EXAMPLE_TEXT", "another")
    assert restored(tables) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [(" ", "the text is empty"), ("law " * 300, "reads 256: shorten it")],
)
def test_text_that_cannot_be_read_says_so(open_page: OpenPage, text: str, problem: str) -> None:
    app = opened(open_page, text=text)
    said = " ".join(element.value.replace("\\", "") for element in (*app.error, *app.markdown))
    assert re.search(problem, said)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "שלום עולם", "=1+1\t|\n**x**", "\x00\u202e"])
def test_any_text_is_shown_literally(open_page: OpenPage, text: str) -> None:
    assert "<script>alert" not in html_of(opened(open_page, text=text))


def test_special_tokens_are_not_shaded(found: Inspection, bench: Workbench, store: Store) -> None:
    fired = fired_on(bench, TEXT)
    names = neuron_names(store)
    shown = shades(fired, found, "contamination", names[0], D_SAE)
    assert np.isnan(shown.values[fired.special]).all()
    assert text_html(found, shown, names).count('<label class="ss"') == fired.special.sum()


def test_collecting_twice_makes_one_row_and_says_so(open_page: OpenPage, stores: Path) -> None:
    app = opened(open_page, text=TEXT)
    said = []
    for _ in range(2):
        next(b for b in app.button if b.label == "Collect").click().run()
        said += [toast.value for toast in checked(app).toast]
    assert said == ["1 neuron in Compare and export.", "Already collected."]
    assert len(AppStore(stores).collected()) == 1
