"""The sidebar's setups, stores that are not there or broken, and the app as a whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.store.reader import Store
from pages.shared.glossary.index import TERMS
from tests.pages.conftest import APP, OTHER_SETUP, SETUP, OpenPage, checked, html_of

PAGES = ("topic", "generate", "compare", "add_setup", "glossary")


def shown(app: AppTest) -> str:
    """Every text of the page's main part."""
    elements = [*app.main.error, *app.main.markdown, *app.main.code, *app.main.caption, *app.main.warning]
    return "\n".join(element.value for element in elements).replace("\\", "")


@pytest.mark.parametrize("page", PAGES)
def test_page_opens_with_title_setup_and_navigation(page: str, open_page: OpenPage) -> None:
    app = open_page(page)
    assert app.title[0].value.endswith("?")
    assert app.sidebar.selectbox(key="setup").value == SETUP
    assert [link.label for link in app.sidebar.get("page_link")] == [
        "Add a setup",
        "Topic",
        "Top-k tokens",
        "Distributions",
        "Coverage",
        "Layer output",
        "Texts",
        "Cost",
        "My text",
        "Generate",
        "Special tokens",
        "SAE training",
        "Interpretability",
        "Compare and export",
        "Glossary",
    ]


def test_setups_that_can_run_come_first(open_page: OpenPage) -> None:
    names = open_page("glossary").sidebar.selectbox(key="setup").options
    assert names.index(SETUP) < names.index("gpt2-v5-32k-l6")
    assert names.index(OTHER_SETUP) < names.index("llama-3.1-8b-l5")


def test_facts_of_the_store_are_in_the_sidebar(open_page: OpenPage, store: Store) -> None:
    (facts,) = [caption.value for caption in open_page().sidebar.caption if "SAE:" in caption.value]
    assert f"SAE: {store.d_sae:,} neurons, {store.meta['architecture']}" in facts
    assert "Model: gpt2, 3 blocks" in facts
    assert "blocks.1.hook_resid_post" in facts.replace("\\", "")
    assert f"Reference: {store.n_prompts:,} prompts" in facts
    assert "Store built just now" in facts or "minute" in facts


def test_each_setup_says_what_it_lacks(open_page: OpenPage) -> None:
    captions = [caption.value.replace("\\", "") for caption in open_page("glossary").sidebar.caption]
    assert any(caption.startswith("lacks weights of google/gemma-2-2b") for caption in captions)


def test_setup_that_lacks_weights_says_so(open_page: OpenPage) -> None:
    app = open_page(setup="gpt2-v5-32k-l6")
    assert "lacks weights of gpt2" in app.sidebar.warning[0].value.replace("\\", "")
    assert "cannot be built here: it lacks weights of gpt2" in shown(app)
    assert "Build the store" not in [button.label for button in app.button]


def test_unknown_setup_of_a_link_is_named(open_page: OpenPage) -> None:
    app = open_page("glossary", setup="nothing[x](http://example.org)")
    assert (
        app.sidebar.warning[0]
        .value.replace("\\", "")
        .startswith("The link asks for a setup 'nothing[x](http://example.org)'")
    )
    assert "\\[x\\]" in app.sidebar.warning[0].value  # shown, not a link


@pytest.mark.parametrize("page", ["topic", "generate"])
def test_setup_without_store_is_built_by_the_button(page: str, open_page: OpenPage, stores: Path) -> None:
    app = open_page(page, setup="gpt2-standard")
    assert "has no store yet" in shown(app)
    assert "python -m core build gpt2-standard" in shown(app)
    next(button for button in app.button if button.label == "Build the store").click().run()
    assert "has no store yet" not in shown(checked(app))
    with Store.open(stores, "gpt2-standard") as built:
        assert f"Reference: {built.n_prompts:,} prompts" in "".join(caption.value for caption in app.sidebar.caption)


def test_damaged_store_names_the_command_that_mends_it(open_page: OpenPage, stores: Path) -> None:
    (stores / "gpt2-gated").mkdir()
    (stores / "gpt2-gated" / "store.duckdb").write_bytes(b"this is no database" * 1_000)
    app = open_page(setup="gpt2-gated")
    assert "is damaged" in shown(app)
    assert "python -m core build gpt2-gated" in shown(app)
    assert "Build the store" in [button.label for button in app.button]


def test_wrong_file_of_setups_is_named(open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "setups.toml"
    path.write_text("[setups.mine]\nmodel = 'm'\n", encoding="utf-8")
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(path))
    app = checked(AppTest.from_file(APP, default_timeout=60).run())
    assert "[setups.mine]: the key 'sae' is missing" in app.sidebar.error[0].value.replace("\\", "")


HEAVY = ("torch", "transformers", "sae_lens", "sentence_transformers")


def test_app_starts_without_heavy_libraries(built_stores: Path, user_setups: Path) -> None:
    """Nothing is embedded or generated on this screen: its topic is empty."""
    code = (
        "import sys\nfrom streamlit.testing.v1 import AppTest\n"
        f"app = AppTest.from_file({str(APP)!r}, default_timeout=60)\n"
        f"app.query_params['topic'], app.query_params['setup'] = '', {SETUP!r}\napp.run()\n"
        f"print(len(app.exception), len(app.error), [name for name in {HEAVY} if name in sys.modules])"
    )
    places = {"STEERSCOPE_STORE": str(built_stores), "STEERSCOPE_SETUPS": str(user_setups)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=APP.parent, env={**os.environ, **places}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "0 1 []", done.stderr


def test_glossary_explains_every_term(open_page: OpenPage) -> None:
    app = open_page("glossary")
    assert {heading.value for heading in app.subheader} == {term.title for term in TERMS.values()}
    assert len({term.anchor for term in TERMS.values()}) == len(TERMS)
    assert html_of(app) == ""


def test_glossary_index_leads_to_every_term(open_page: OpenPage) -> None:
    index = " ".join(element.value for element in open_page("glossary").main.markdown)
    assert all(f"](#{term.anchor})" in index for term in TERMS.values())


def test_glossary_shows_the_terms_that_have_every_word(open_page: OpenPage) -> None:
    app = open_page("glossary", term="closest CONTINUATION")
    assert [heading.value for heading in app.subheader] == ["Topic percentile"]
    app = open_page("glossary", term="no such [word](x)")
    assert len(app.subheader) == 0
    assert "No term has no such \\[word\\]\\(x\\)" in app.main.markdown[0].value
