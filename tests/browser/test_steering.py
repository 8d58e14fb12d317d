"""Steering as a user does it: a chat of two turns, and alpha dragged while both answers stay in view."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from core.build.pipeline import build
from core.catalog import DEFAULT_SETUP, find_setup
from core.evaluation.example import EXAMPLE
from core.settings import GenerationSettings, ScoreSettings
from core.steering.chat import Chat
from core.steering.settings import SteeringSettings
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.sweep.request import PUBLISHED_NEURON
from core.text.prompts import parse_topic
from tests.browser.conftest import MIN_PROMPTS, Visitor, serving, visiting
from tests.fixtures.builds import refuse

CHAT_SETUP = "qwen2-jumprelu"
TOKENS = 6


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Path:
    """A root of stores with a tiny chat setup's."""
    root = tmp_path_factory.mktemp("chat")
    build(find_setup(CHAT_SETUP, user_setups), root)
    return root


@pytest.fixture(scope="module")
def chat_bench(roots: Path, user_setups: Path) -> Iterator[Workbench]:
    with Store.open(roots, CHAT_SETUP) as store:
        yield open_workbench(find_setup(CHAT_SETUP, user_setups), store)


@pytest.fixture
def chat_visitor(chromium: Browser, roots: Path, user_setups: Path, tmp_path: Path) -> Iterator[Visitor]:
    with serving(roots, user_setups, tmp_path / "log.txt") as address, visiting(chromium, address) as guest:
        yield guest
        assert guest.problems == []


def say(page: Page, words: str) -> None:
    composer = page.get_by_placeholder("Say something to both")
    composer.fill(words)
    composer.press("Enter")


def answers(page: Page) -> list[str]:
    """The answers in the order of the page: turn by turn, the original's first."""
    return [" ".join(text.replace("↵", "").split()) for text in page.locator(".ss-columns .ss-text").all_inner_texts()]


def expected_answers(bench: Workbench, seeds: list[int]) -> list[str]:
    scored = bench.score(EXAMPLE.topic, ScoreSettings(min_prompts=MIN_PROMPTS))
    steering = SteeringSettings(keep_error=True, sharpness=2.0, multiplier=1.0, alphas=((5, 40.0),))
    ways, chat = [bench.way(name, scored, steering) for name in ("none", "add")], Chat()
    for words, seed in zip(("Good morning", "And what then?"), seeds, strict=False):
        chat.say(words, seed)
        chat.reply(bench, ways, scored, GenerationSettings(max_new_tokens=TOKENS), "Be brief.").finish()
    texts = [bench.model.tokenizer.decode(answer.ids) for turn in chat.turns for answer in turn.answers]
    return [" ".join(text.split()) for text in texts]


def test_chat_of_two_turns_is_steered_in_one_column(chat_visitor: Visitor, chat_bench: Workbench) -> None:
    page = chat_visitor.open(
        "generate", setup=CHAT_SETUP, topic=EXAMPLE.topic.title, mode="Chat", steered="Add", added="5:40",
        system="Be brief.", tokens=str(TOKENS), seed="3",
    )  # fmt: skip
    assert parse_topic(EXAMPLE.topic.title) == EXAMPLE.topic
    for turn, words in enumerate(("Good morning", "And what then?"), start=1):
        say(page, words)
        expect(page.get_by_role("button", name="Regenerate")).to_have_count(turn)
        chat_visitor.settled()
        expect(page.locator(".ss-said")).to_have_text(["Good morning", "And what then?"][:turn])
    assert answers(page) == expected_answers(chat_bench, [3, 3])
    page.get_by_text("Figures", exact=True).first.click()
    expect(page.locator(".ss-figures:visible")).to_have_count(2)
    page.get_by_role("button", name="Regenerate").first.click()
    expect(page.get_by_role("button", name="Regenerate")).to_have_count(1)
    expect(page.locator(".ss-columns .ss-text")).to_have_count(2)  # the later turn has gone
    chat_visitor.settled()
    assert answers(page) == expected_answers(chat_bench, [4])


# what a person sees of the two answers, noted at every frame
_WATCH = """() => {
  window.seen = {fewest: 2, shortest: 1e9};
  const look = () => {
    const texts = [...document.querySelectorAll('.ss-columns section .ss-text')].map((text) => text.innerText.length);
    window.seen.fewest = Math.min(window.seen.fewest, texts.length);
    window.seen.shortest = Math.min(window.seen.shortest, ...texts);
    requestAnimationFrame(look);
  };
  look();
}"""


@pytest.mark.slow
def test_alpha_is_dragged_with_both_answers_in_view(chromium: Browser, user_setups: Path, tmp_path: Path) -> None:
    build(find_setup(DEFAULT_SETUP), tmp_path, pipeline=refuse)  # what comes with the checkout is taken
    with serving(tmp_path, user_setups, tmp_path / "log.txt") as address, visiting(chromium, address) as guest:
        page = guest.open("special_tokens", setup=DEFAULT_SETUP, neuron=str(PUBLISHED_NEURON), question="2")
        expect(page.locator(".ss-columns .ss-text")).to_have_count(2)
        unsteered = page.locator(".ss-columns .ss-text").first.inner_text()
        page.evaluate(_WATCH)
        page.get_by_text("Any alpha", exact=True).click()
        thumb = page.locator("input[type=range][aria-label=Alpha]")
        expect(page.get_by_text("of the residual stream's mean norm")).to_be_visible()
        expect(thumb).to_have_count(1)  # the one of the swept alphas has gone
        _finish(page, r"× [\d.]+$")
        box = thumb.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 60, box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
        expect(page).to_have_url(re.compile(r"[?&]alpha="))
        alpha = re.search(r"alpha=([\d.]+)", page.url)
        assert alpha is not None
        _finish(page, f"× {float(alpha[1]):g}$")
        assert page.evaluate("window.seen.fewest") == 2
        assert page.evaluate("window.seen.shortest") > 0
        shown = page.locator(".ss-columns .ss-text").first.inner_text()
        assert shown.split() == unsteered.split()
        assert guest.problems == []


def _finish(page: Page, title: str) -> None:
    """Waits for both answers, the steered one of this title; where the machine is slow, they are written on a press."""
    steered = page.locator(".ss-columns section:not(.ss-stale) h3").nth(1).filter(has_text=re.compile(title))
    waiting = page.get_by_text(re.compile(r"^About \d+ s\."))
    expect(steered.or_(waiting)).to_be_visible()
    if waiting.is_visible():
        page.get_by_test_id("stMain").get_by_role("button", name="Answer", exact=True).click()
    expect(steered).to_be_visible()
    expect(page.get_by_text("Shaded: words that differ.")).to_be_visible()
