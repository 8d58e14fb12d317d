"""My text as a user inspects it: typed, a token pinned, shaded by a neuron, collected, and the figures of the core."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from core.catalog import find_setup
from core.inspection import Inspection, inspect_text
from core.settings import ScoreSettings
from core.steering.workbench import open_workbench
from core.store.reader import Store
from core.text.prompts import parse_topic
from tests.browser.conftest import MIN_PROMPTS, SETUP, Visitor

TEXT = "The soup was warm and the bread was old"
TOPIC = "soup and bread"


@pytest.fixture
def expected(stores: Path, user_setups: Path) -> Iterator[Inspection]:
    with Store.open(stores, SETUP) as store:
        bench = open_workbench(find_setup(SETUP, user_setups), store)
        scored = bench.score(parse_topic(TOPIC), ScoreSettings(min_prompts=MIN_PROMPTS))
        yield inspect_text(bench, TEXT, scored)


def test_own_text_is_inspected(visitor: Visitor, expected: Inspection) -> None:
    page = visitor.open("my_text", topic=TOPIC)
    main = page.get_by_test_id("stMain")
    main.get_by_label("Text", exact=True).fill(TEXT)
    main.get_by_role("button", name="Inspect", exact=True).click()
    run = main.get_by_role("button", name="Run the model", exact=True)
    shown = main.locator(".ss-pinned")
    expect(run.or_(shown)).to_be_visible()
    if run.is_visible():
        run.click()
    expect(shown).to_be_visible()
    visitor.settled()
    ordinary = expected.tokens[~expected.tokens["special"]]
    assert "".join(shown.locator(".ss").all_inner_texts()).split()[-3:] == TEXT.split()[-3:]
    expect(main.get_by_text(f"{len(expected.neurons):,} neurons fire on this text")).to_be_visible()

    last = ordinary.iloc[-1]
    shown.locator("label").last.click()  # pins the last token
    pinned = shown.locator(".ss-pin:visible")
    expect(pinned.locator("tr")).to_have_count(len(last["neurons"]))
    expect(pinned.locator("a").first).to_have_text(re.compile(rf"^{last['neurons'][0]:,}\b|^{last['neurons'][0]}\b"))

    strongest = int(expected.neurons["neuron"].iloc[0])
    main.get_by_label("Neuron", exact=True).fill(str(strongest))
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"[?&]neuron={strongest}(&|$)"))
    visitor.settled()
    expect(main.get_by_text(f"activation of {strongest}")).to_be_visible()
    main.get_by_role("button", name="Collect", exact=True).click()
    expect(page.get_by_text("1 neuron in Compare and export.")).to_be_visible()
