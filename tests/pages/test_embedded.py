"""The setup that comes with the checkout: its store is taken, the model gives its rows, every page opens full."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from core.build.pipeline import build
from core.catalog import DEFAULT_SETUP, find_setup
from core.store.reader import Store
from tests.fixtures.builds import refuse
from tests.pages.conftest import APP, checked

pytestmark = pytest.mark.slow

PAGES = (
    *("topic", "top_k", "distributions", "coverage", "layer_output", "generate", "special_tokens", "sae_training"),
    *("texts", "compare", "glossary"),
)
N_RECOMPUTED = 32


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new root of stores, as `make app` makes it on a fresh checkout."""
    root = tmp_path_factory.mktemp("embedded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERSCOPE_STORE", str(root))
        build(find_setup(DEFAULT_SETUP), root, pipeline=refuse)  # nothing is to be computed
        yield root
    st.cache_data.clear()
    st.cache_resource.clear()


def test_model_gives_the_rows_of_the_store(root: Path) -> None:
    from core.build.activations import token_activations
    from core.models.sparse_autoencoder import load_setup

    setup = find_setup(DEFAULT_SETUP)
    with Store.open(root, DEFAULT_SETUP) as store:
        assert store.meta["hook_name"] == "blocks.14.hook_resid_post"
        prompts = store.prompts()
        chosen = [i * len(prompts) // N_RECOMPUTED for i in range(N_RECOMPUTED)]
        stored = store.table("activations", "*", "neuron, prompt").to_pandas()
    stored = stored[stored["prompt"].isin(chosen)]
    model, sae = load_setup(setup)
    texts = prompts.set_index("prompt")["text"]
    parts = []
    for batch in token_activations(
        model, sae, [texts[i] for i in chosen], prompt_ids=chosen, max_length=setup.context_size
    ):
        parts.append(pd.DataFrame({"prompt": batch.prompt, "neuron": batch.neuron, "a": batch.activation}))
    rows = pd.concat(parts).groupby(["neuron", "prompt"])["a"].agg(["sum", "max", "count"]).reset_index()
    both = rows.merge(stored, on=["neuron", "prompt"], suffixes=("", "_stored"))
    # another machine's sums differ in the last digits, and then so may which neuron comes 32nd
    assert len(both) >= 0.995 * max(len(rows), len(stored))
    same = both[both["count"] == both["n_tokens"]]
    assert len(same) >= 0.995 * len(both)
    for name in ("sum", "max"):
        np.testing.assert_allclose(same[f"{name}_stored"], same[name], rtol=2e-3)


@pytest.mark.parametrize("page", PAGES)
def test_page_opens_full_and_without_the_model(page: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page != "top_k":  # it runs the tokens of the typed topic through the model
        monkeypatch.setattr("core.steering.workbench.load_setup", lambda *_, **__: pytest.fail("loads the model"))
    app = AppTest.from_file(APP, default_timeout=300)
    if page != "topic":
        app.switch_page(f"pages/{page}.py")
    checked(app.run())
    assert [error.value for error in app.error] == []
    words = [element.value for kind in (app.markdown, app.caption) for element in kind]
    assert not [text for text in words if "Not computed" in text or "not been swept" in text or "No results" in text]
    shown = sum(len(app.get(kind)) for kind in ("plotly_chart", "arrow_data_frame", "html", "table"))
    assert shown > 0
