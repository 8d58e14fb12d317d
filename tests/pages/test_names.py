"""A neuron's name on the pages: escaped as HTML and Markdown, linked with setup and topic, and its label written."""

import pytest
from streamlit.testing.v1 import AppTest

from core.results.app_store import AppStore
from core.results.names import NeuronName, open_names
from core.store.reader import Store
from pages.shared.names import hover_name, neuron_link, neuron_markdown
from tests.pages.conftest import SETUP, OpenPage, checked

NAME = NeuronName(7, '<b>"a" & [b](c)*', "user")


def test_name_is_escaped_in_every_form() -> None:
    link = neuron_link(NAME)
    assert link.startswith('<a class="ss-neuron" href="./?neuron=7" target="_blank">7 <small>')
    assert "&lt;b&gt;&quot;a&quot; &amp; [b](c)*" in link
    assert neuron_markdown(NAME) == r"[7 \<b\>\"a\" \& \[b\]\(c\)\*](./?neuron=7)"
    assert hover_name(NAME) == "7 &lt;b&gt;&quot;a&quot; &amp; [b](c)*"


def test_long_name_is_whole_on_hover() -> None:
    long = NeuronName(7, "word " * 30, "judge")
    assert f'title="{long.words}"' in neuron_link(long)
    assert " ...</small>" in neuron_link(long)


def test_neuron_without_words_is_its_number() -> None:
    assert ">7</a>" in neuron_link(NeuronName(7, "", "tokens"))


def _name_line(app: AppTest, neuron: int) -> str:
    return next(m.value for m in app.main.markdown if m.value.startswith(f"**{neuron}** "))


def test_label_written_on_the_topic_page_is_the_neurons_name(open_page: OpenPage, store: Store) -> None:
    results = AppStore(store.path.parents[1])
    neuron = next(number for number, name in open_names(store, results).items() if name.words)
    app = open_page(neuron=str(neuron))
    assert "its top tokens" in _name_line(app, neuron)
    checked(app.text_input(f"label {SETUP} {neuron}").set_value("  my label ").run())
    assert "**" + str(neuron) + "** my label" in _name_line(app, neuron)
    assert "your label" in _name_line(app, neuron)
    assert str(open_names(store, results)[neuron]) == f"{neuron} my label"
    checked(app.text_input(f"label {SETUP} {neuron}").set_value("").run())
    assert "its top tokens" in _name_line(app, neuron)
    assert results.labels(SETUP).empty


def test_judges_label_is_shown_as_a_judges(open_page: OpenPage, store: Store) -> None:
    AppStore(store.path.parents[1]).save_labels(SETUP, {3: "said by a judge"}, "judge")
    assert "a judge's label" in _name_line(open_page(neuron="3"), 3)


@pytest.mark.parametrize("page", ["topic"])
def test_broken_app_file_is_said_where_names_are_due(open_page: OpenPage, store: Store, page: str) -> None:
    AppStore(store.path.parents[1]).path.write_bytes(b"no database")
    app = open_page(page, neuron="3")
    assert any("damaged" in error.value for error in app.error)
