"""Add a setup: chosen from sae_lens's list or a folder, checked, written, and then the chosen one."""

import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.catalog import find_setup
from tests.pages.conftest import SETUP, OpenPage, checked

Open = Callable[..., AppTest]


@pytest.fixture
def file(user_setups: Path, gpt2_folder: Path, sae_folders: Mapping[str, Path], tmp_path: Path) -> Path:
    """A file of setups of this test's own, with a model and an SAE below its folder."""
    home = tmp_path / "home"
    home.mkdir()
    path = home / "setups.toml"
    tables = user_setups.read_text(encoding="utf-8")
    for place in ("models/", "saes/", "reference", "embedding"):
        tables = tables.replace(f'"{place}', f'"{user_setups.parent}/{place}')
    path.write_text(tables, encoding="utf-8")
    shutil.copytree(gpt2_folder, home / "lm")
    shutil.copytree(sae_folders["gpt2-jumprelu"], home / "mine")
    return path


@pytest.fixture
def open_add(open_page: OpenPage, file: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(file))
    return lambda **query: open_page("add_setup", **query)


def labelled(app: AppTest, label: str):
    elements = [*app.main.selectbox, *app.main.text_input, *app.main.button]
    (found,) = [element for element in elements if element.label == label]
    return found


def add(app: AppTest, **values: str) -> AppTest:
    for label, value in values.items():
        labelled(app, label.replace("_", " ")).set_value(value)
    checked(app.run())
    labelled(app, "Add the setup").click()
    return checked(app.run())


def texts(app: AppTest) -> str:
    elements = [*app.main.error, *app.main.success, *app.main.caption, *app.main.code]
    return "\n".join(element.value for element in elements).replace("\\", "")


def test_setup_of_the_list_is_written_and_chosen(open_add: Open, file: Path) -> None:
    before = file.read_text(encoding="utf-8")
    app = open_add(
        listed_model="google/gemma-3-1b-it",
        listed_release="gemma-scope-2-1b-it-res",
        listed_sae="layer_13_width_262k_l0_medium",
    )
    assert "google/gemma-3-1b-it · blocks.13.hook_resid_post · 262,144 neurons · 60 active on a token" in texts(app)
    assert labelled(app, "Name").value == "gemma-3-1b-it-l13-262k"
    assert labelled(app, "Reference prompts are").value == "in its chat template"
    app = add(app, Name="mine-1b")
    assert tomllib.loads(file.read_text(encoding="utf-8"))["setups"]["mine-1b"] == {
        "model": "google/gemma-3-1b-it",
        "sae": "gemma-scope-2-1b-it-res:layer_13_width_262k_l0_medium",
        "dtype": "bfloat16",
        "chat": True,
    }
    assert file.read_text(encoding="utf-8").startswith(before)
    assert app.sidebar.selectbox(key="setup").value == "mine-1b"
    assert "mine-1b is added, and chosen. To run, it lacks weights of google/gemma-3-1b-it" in texts(app)
    assert "python -m core build mine-1b" in texts(app)


def test_another_model_has_other_releases_and_suggestions(open_add: Open) -> None:
    app = open_add(listed_model="google/gemma-3-1b-it", listed_release="gemma-scope-2-1b-it-res")
    app = checked(app.main.selectbox(key="listed_model").set_value("gpt2").run())
    release = labelled(app, "Release")
    assert "gpt2-small-res-jb" in release.options
    app = checked(release.set_value("gpt2-small-res-jb").run())
    app = checked(labelled(app, "SAE").set_value("blocks.6.hook_resid_pre").run())
    assert "gpt2 · blocks.6.hook_resid_pre · its number of neurons is in its own file" in texts(app)
    assert (labelled(app, "Model to load").value, labelled(app, "Name").value) == ("gpt2", "gpt2-l6-mine")
    assert labelled(app, "Reference prompts are").value == "plain text"
    assert labelled(app, "Number format").value == "float32"


def test_folder_is_added_with_its_hook_point(open_add: Open, file: Path) -> None:
    app = open_add(sae_from="A folder")
    assert f"Folders are below {file.parent}, where the file of setups is" in texts(app)
    app = checked(labelled(app, "SAE folder").set_value("mine").run())
    assert labelled(app, "Name").value == "mine"
    app = add(app, Model_to_load="lm", Title="My own", Reference_prompts_are="plain text; answers in its chat template")
    setup = find_setup("mine", file)
    assert (setup.model, setup.sae) == (str(file.parent / "lm"), str(file.parent / "mine"))
    assert (setup.title, setup.instruct, setup.hook_name, setup.dtype) == ("My own", True, None, "float32")
    assert app.sidebar.selectbox(key="setup").value == "mine"
    assert "mine is added, and chosen. Nothing is missing: build its store next." in texts(app)
    app = checked(app.sidebar.selectbox(key="setup").set_value(SETUP).run())
    assert "is added" not in texts(app)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Model_to_load": "lm", "Name": SETUP}, f"has a setup '{SETUP}' already"),
        ({"Model_to_load": "lm", "Name": "a/b"}, "name is at most 200 letters"),
        ({"Model_to_load": ""}, "model is some text, on one line, not ''"),
        ({"Model_to_load": "../models/gpt2"}, "model is a hub's name or lies below"),
        ({"Model_to_load": "mine"}, "is not a model folder: it has no config.json"),
        ({"Model_to_load": "lm", "Hook_point": "blocks.9.hook_resid_post"}, "no hook point 'blocks.9.hook_resid_post'"),
        ({"Model_to_load": "lm", "SAE_folder": "/"}, "sae is a hub's name or lies below"),
        ({"Model_to_load": "lm", "SAE_folder": ""}, "sae is some text, on one line, not ''"),
    ],
)
def test_wrong_setup_is_told_and_nothing_is_written(
    values: dict[str, str], message: str, open_add: Open, file: Path
) -> None:
    before = file.read_bytes()
    folder = values.pop("SAE_folder", "mine")
    app = checked(labelled(open_add(sae_from="A folder"), "SAE folder").set_value(folder).run())
    app = add(app, **{"Name": "other", **values})
    assert message in texts(app)
    assert file.read_bytes() == before
    assert app.sidebar.selectbox(key="setup").value == SETUP
    assert not app.success


def test_missing_file_of_setups_is_named(open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(tmp_path / "none.toml"))
    app = open_page("add_setup", setup="smollm2")
    assert "no file" in texts(app)
    assert not app.main.button
