"""The main job as a user does it: topic typed, neuron opened, four columns generated, tables taken away."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from core.catalog import find_setup
from core.evaluation.example import EXAMPLE
from core.scoring.scorer import ScoredTopic
from core.settings import GenerationSettings, ScoreSettings
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.text.prompts import parse_topic
from pages.shared.charts.colours import ramp
from tests.browser.conftest import MIN_PROMPTS, SETUP, Visitor, serving, visiting

TOPIC = "soup and bread"
PROMPT = "My heart is broken, so I should"
ROW_HEIGHT = 35  # pixels of a row of st.dataframe, of its header too
TOKENS = 8
CLICK_TOLD_MS = 1_000  # the table tells the server of a click a little later; nobody is quicker with the next


@pytest.fixture(scope="module")
def bench(stores: Path, user_setups: Path) -> Iterator[Workbench]:
    with Store.open(stores, SETUP) as store:
        yield open_workbench(find_setup(SETUP, user_setups), store)


@pytest.fixture(scope="module")
def scored(bench: Workbench) -> ScoredTopic:
    return bench.score(parse_topic(TOPIC), ScoreSettings(min_prompts=MIN_PROMPTS))


def type_topic(page: Page, text: str) -> None:
    page.get_by_label("Topic (each line is one prompt)", exact=True).fill(text)
    page.keyboard.press("Enter")


def select_row(page: Page, number: int) -> None:
    """Clicks the text of a row of the ranking; rows are drawn on a canvas."""
    table = page.get_by_test_id("stDataFrame")
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + (number + 0.5) * ROW_HEIGHT)
    page.wait_for_timeout(CLICK_TOLD_MS)


def downloaded(page: Page, button: Locator) -> pd.DataFrame:
    with page.expect_download() as download:
        button.click()
    return pd.read_csv(download.value.path(), keep_default_na=False, na_values=[""])


def press(page: Page, name: str) -> None:
    page.get_by_test_id("stMain").get_by_role("button", name=name, exact=True).click()


def texts(page: Page) -> list[str]:
    """The continuations, by column."""
    columns = page.locator(".ss-columns section")
    return ["".join(columns.nth(i).locator(".ss").all_inner_texts()) for i in range(columns.count())]


def expected_text(bench: Workbench, scored: ScoredTopic, name: str, tokens: int = TOKENS) -> str:
    settings = GenerationSettings(max_new_tokens=tokens, seed=1)
    column = bench.column(name, bench.edit(name, scored, EXAMPLE.steering), [PROMPT], scored, settings)
    return "".join(column.generations[0].tokens)


def test_topic_neuron_columns_tables_and_report(
    visitor: Visitor, bench: Workbench, scored: ScoredTopic, tmp_path: Path
) -> None:
    ranked, store = scored.scores.ranked(), bench.store
    page = visitor.open()
    type_topic(page, TOPIC)
    expect(page.get_by_label("Neuron", exact=True)).to_have_attribute("placeholder", f"{ranked['neuron'][0]} (best)")

    select_row(page, 3)
    third = ranked.iloc[2]
    expect(page).to_have_url(re.compile(rf"[?&]neuron={int(third['neuron'])}(&|$)"))
    expect(page.locator(".ss-facts")).to_contain_text(f"{third['score']:.3f} rank 3 of {len(ranked)}")
    expect(page.locator(".ss-text").first).to_contain_text(store.contexts(int(third["neuron"]))[0].tokens[0].strip())

    rows = downloaded(page, page.get_by_test_id("stMain").get_by_role("button", name="CSV", exact=True))
    known = store.neurons().set_index("neuron").loc[rows["neuron"]]
    assert rows["neuron"].tolist() == ranked["neuron"].tolist()
    np.testing.assert_allclose(rows["score"], ranked["score"])
    assert rows["prompts"].tolist() == known["prompts"].tolist()
    assert rows["tokens"].tolist() == known["tokens"].tolist()
    np.testing.assert_allclose(rows["max"], known["max"], rtol=1e-5)

    page.get_by_role("link", name="Generate").click()
    visitor.settled()
    page.get_by_label("New tokens", exact=True).fill(str(TOKENS))
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"[?&]tokens={TOKENS}(&|$)"))
    visitor.settled()
    press(page, "Generate")
    expect(page.locator(".ss-figures")).to_have_count(4)
    expect(page.locator(".ss-best")).to_have_count(0)  # one seed tells no column apart
    names = ("none", "sae", "clamp", "swap")
    shown = [text.replace("↵", "") for text in texts(page)]
    assert [" ".join(text.split()) for text in shown] == [
        " ".join(expected_text(bench, scored, name).split()) for name in names
    ]

    press(page, "Collect")
    expect(page.get_by_text("4 texts in Compare and export.")).to_be_visible()
    page.get_by_role("link", name="Compare and export").click()
    expect(page.get_by_role("heading", name="Texts")).to_be_visible()
    visitor.settled()
    collected = downloaded(page, page.get_by_test_id("stMain").get_by_role("button", name="CSV", exact=True).first)
    assert collected["edit"].tolist() == list(names)
    assert collected["topic"].tolist() == [TOPIC] * 4

    with page.expect_download() as download:
        page.get_by_role("button", name="Report", exact=True).click()
    report = tmp_path / "report.html"
    download.value.save_as(report)
    page.goto(report.as_uri())  # the visitor refuses every request but the server's and this file
    expect(page.locator("h2", has_text="Texts")).to_have_count(1)
    expect(page.locator(".plot .main-svg").first).to_be_visible()
    assert all(text.split()[0] in page.locator("table").first.inner_text() for text in shown)


def test_second_click_leaves_the_neuron_open_and_it_is_steered_with(visitor: Visitor, scored: ScoredTopic) -> None:
    second = int(scored.scores.ranked()["neuron"].iloc[1])
    page = visitor.open()
    type_topic(page, TOPIC)
    expect(page).to_have_url(re.compile(r"[?&]topic=soup"))
    visitor.settled()
    for _ in range(2):
        select_row(page, 2)
        visitor.settled()
        expect(page).to_have_url(re.compile(rf"[?&]neuron={second}(&|$)"))
    page.get_by_test_id("stMain").get_by_role("link").filter(has_text=f"Steer with neuron {second}").click()
    expect(page.locator("h1")).to_have_text("What does each way of steering do to the text?")
    expect(page).to_have_url(re.compile(rf"[?&]added={second}(&|$)"))
    expect(page.get_by_label("Added neurons", exact=True)).to_have_value(str(second))


def test_link_to_a_page_opens_it_on_a_server_just_started(
    chromium: Browser, stores: Path, user_setups: Path, tmp_path: Path
) -> None:
    with serving(stores, user_setups, tmp_path / "log.txt") as address, visiting(chromium, address) as guest:
        page = guest.open("generate", topic=TOPIC, prompt="The soup", seed="7")
        expect(page.locator("h1")).to_have_text("What does each way of steering do to the text?")
        expect(page.get_by_label("Prompt", exact=True)).to_have_value("The soup")
        expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
        expect(page.get_by_label("Topic (each line is one prompt)", exact=True)).to_have_value(TOPIC)
        expect(page.get_by_role("link", name="Compare and export")).to_be_visible()
        assert guest.problems == []


@pytest.fixture
def slow_visitor(
    chromium: Browser, stores: Path, user_setups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Visitor]:
    """A visitor of a server that takes its time over every draw, as with a large model."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time, torch\n"
        "draw = torch.multinomial\n"
        "torch.multinomial = lambda *args, **options: time.sleep(0.02) or draw(*args, **options)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(stores, user_setups, tmp_path / "log.txt") as address, visiting(chromium, address) as guest:
        yield guest
        assert guest.problems == []


def test_stop_keeps_the_text_and_leaves_nothing_steered(
    slow_visitor: Visitor, bench: Workbench, scored: ScoredTopic
) -> None:
    visitor = slow_visitor
    page = visitor.open("generate", topic=TOPIC, tokens="230")  # 920 draws: there is time to stop
    press(page, "Generate")
    expect(page.locator(".ss").nth(3)).to_be_visible()
    press(page, "Stop")
    expect(page.get_by_text("Stopped: 0 of 1 seed complete.")).to_be_visible()
    visitor.settled()
    assert 3 < page.locator(".ss").count() < 920
    page = visitor.open("generate", topic=TOPIC, tokens=str(TOKENS), columns="Original")
    press(page, "Generate")
    expect(page.locator(".ss-figures")).to_have_count(1)
    visitor.settled()
    assert texts(page)[0].split() == expected_text(bench, scored, "none").split()


def test_markup_is_never_run(visitor: Visitor) -> None:
    attack = "<img src=x onerror='window.ran = 1'><script>window.ran = 1</script>"
    page = visitor.open(topic=attack)
    expect(page.locator(".ss-facts")).to_be_visible()
    page = visitor.open("generate", topic=attack, prompt=attack, tokens="2")
    press(page, "Generate")
    expect(page.locator(".ss-figures")).to_have_count(4)
    expect(page.locator(".ss-prefix").first).to_have_text(attack)
    assert page.evaluate("window.ran") is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_phone_has_no_sideways_scroll_and_tokens_follow_the_theme(chromium: Browser, server: str, theme: str) -> None:
    with visiting(chromium, server, viewport={"width": 400, "height": 800}, color_scheme=theme) as guest:
        for path in ("", "generate", "compare", "glossary"):
            page = guest.open(path, tokens="4") if path == "generate" else guest.open(path)
            if path == "generate":
                press(page, "Generate")
                expect(page.locator(".ss-figures")).to_have_count(4)
                guest.settled()
            assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 400, path
        page = guest.open()
        strongest = page.locator(".ss-10").first
        background, text = [f"rgb({int(c[1:3], 16)}, {int(c[3:5], 16)}, {int(c[5:7], 16)})" for c in ramp(theme)[-1]]
        expect(strongest).to_have_css("background-color", background)  # waits for the style sheet
        expect(strongest).to_have_css("color", text)
        assert guest.problems == []
