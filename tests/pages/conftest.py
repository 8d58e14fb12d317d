"""The app on tiny setups, without a browser."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from core.build.pipeline import build
from core.catalog import find_setup
from core.store.reader import Store

APP = Path(__file__).resolve().parents[2] / "app.py"
SETUP = "gpt2-topk"
OTHER_SETUP = "qwen2-jumprelu"
MIN_PROMPTS = 5  # of the 96 reference prompts

OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="session")
def built_stores(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Path:
    """Root of the stores of both setups."""
    root = tmp_path_factory.mktemp("stores")
    for name in (SETUP, OTHER_SETUP):
        build(find_setup(name, user_setups), root)
    return root


@pytest.fixture
def stores(built_stores: Path, tmp_path: Path, user_setups: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of this test's own, with the built stores in it; the app reads and writes there."""
    root = tmp_path / "root"
    root.mkdir()
    for name in (SETUP, OTHER_SETUP):
        os.symlink(built_stores / name, root / name)
    monkeypatch.setenv("STEERSCOPE_STORE", str(root))
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(user_setups))
    return root


@pytest.fixture
def store(stores: Path) -> Iterator[Store]:
    with Store.open(stores, SETUP) as opened:
        yield opened


@pytest.fixture
def open_page(stores: Path) -> Iterator[OpenPage]:
    """Opens a page by its name with a query; its run had no exception."""

    def opened(page: str = "topic", **query: str) -> AppTest:
        app = AppTest.from_file(APP, default_timeout=300)
        if page != "topic":
            app.switch_page(f"pages/{page}.py")
        for name, value in {"setup": SETUP, "min_prompts": str(MIN_PROMPTS), **query}.items():
            app.query_params[name] = value
        return checked(app.run())

    yield opened
    st.cache_data.clear()
    st.cache_resource.clear()


def checked(app: AppTest) -> AppTest:
    """The app after a run that had no exception."""
    assert [element.message for element in app.exception] == []
    return app


def html_of(app: AppTest) -> str:
    """All HTML that the page itself wrote, the style sheet aside."""
    return "\n".join(block.value for block in app.main.get("html") if "<style>" not in block.value)
