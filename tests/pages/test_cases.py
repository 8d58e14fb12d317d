"""What once broke a page: numbers of a link that are none, large uploads, formulas in a table, the same row twice."""

from pathlib import Path

import pytest
import streamlit

from core.errors import UsageError
from core.results.app_store import AppStore
from pages.shared.topics import _file_topic
from tests.pages.conftest import OpenPage, checked

STYLE = Path(__file__).resolve().parents[2] / "pages" / "shared" / "style.css"


@pytest.mark.parametrize(
    ("page", "name", "value"),
    [
        ("topic", "neuron", "inf"),
        ("topic", "min_prompts", "inf"),
        ("generate", "tokens", "-inf"),
        ("topic", "neuron", "nan"),
    ],
)
def test_number_of_a_link_that_is_none_is_ignored_and_said(
    open_page: OpenPage, page: str, name: str, value: str
) -> None:
    app = open_page(page, **{name: value})
    told = [warning.value.replace("\\", "") for warning in app.warning]
    assert f"The link's {name} is {value}, which is no number: ignored." in told


def test_word_of_a_link_is_a_topic(open_page: OpenPage) -> None:
    app = open_page(topic="inf")
    assert app.text_area(key="topic").value == "inf"
    assert not any("no number" in warning.value for warning in app.warning)


@pytest.mark.parametrize("name", ["big.txt", "../../x.txt", f"{'n' * 300}.txt"])
def test_large_upload_is_refused_in_words(name: str) -> None:
    with pytest.raises(UsageError, match="it has 20 MiB; the file of a topic has at most 4: take a sample of it"):
        _file_topic(name, b"a" * (20 * 2**20))


def test_crafted_upload_names_lead_nowhere() -> None:
    for name in ("../../x.txt", "..txt.txt", f"{'n' * 300}.txt", "/etc/passwd.txt", "<b>.txt"):
        assert _file_topic(name, b"a heart").prompts == ("a heart",)
    for name in ("..", "", "x.exe"):
        with pytest.raises(UsageError, match=r"prompts are read from .txt, .csv, .jsonl, .parquet files"):
            _file_topic(name, b"a heart")


def test_tables_own_download_is_off() -> None:
    """It would write formulas as somebody typed them; the page's exports do not."""
    label = "Download as CSV"
    rule = f'[data-testid="stElementToolbarButton"]:has([aria-label^="{label}"]) {{\n  display: none;\n}}'
    assert rule in STYLE.read_text(encoding="utf-8")
    scripts = Path(streamlit.__file__).parent / "static" / "static" / "js"
    code = "".join(file.read_text(encoding="utf-8") for file in scripts.glob("DataFrame*.js"))
    assert f"label:`{label}`" in code  # the name that this version of Streamlit gives the button


def test_neuron_collected_twice_is_one_row(open_page: OpenPage, stores: Path) -> None:
    app = open_page(neuron="5")
    for told in ("1 neuron in Compare and export.", "Already collected."):
        (button,) = [button for button in app.button if button.label == "Collect"]
        app = checked(button.click().run())
        assert app.toast[0].value.endswith(told)
    assert len(AppStore(stores).collected()) == 1
