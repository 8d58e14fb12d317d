"""What a person waits for in the browser: the app on the default setup, driven through a real Chromium.

Figures in seconds are this machine's. What writes text is held against bare generation of as many rows.
"""

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.models import embedded_setup
from benchmarks.startup import served
from benchmarks.timing import Figure
from core.build.pipeline import build
from core.errors import UsageError
from core.evaluation.example import EXAMPLE
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import load_setup
from core.settings import GenerationSettings
from core.steering.generation import Generator
from core.sweep.request import PUBLISHED_NEURON

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
TOPICS = ("soup and bread", "a rocket to the moon", "football match", "income tax", "tooth ache", "horse riding", "war")
QUESTION = "What is the capital of France, and what is it known for?"
TOKENS = 64
_ROW_HEIGHT = 35  # pixels of a row of st.dataframe, of its header too
_PATIENCE_MS = 600_000
_STATE = "document.querySelector('.stApp')?.getAttribute('data-test-script-state')"
_SETTLED = f"document.querySelector('h1') && {_STATE} === 'notRunning'"
_TEXT = "(at) => document.querySelector(at)?.textContent"


class Visitor:
    """A browser page of the app; every wait is polled at each frame."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        page.set_default_timeout(_PATIENCE_MS)

    def open(self, path: str = "", **query: object) -> float:
        """Opens a page of the app; the seconds until its run is over."""
        start = time.perf_counter()
        self.page.goto(f"{self.address}/{path}?{urlencode({'setup': embedded_setup().name, **query})}")
        return self._until(_SETTLED, start)

    def _until(self, holds: str, start: float) -> float:
        self.page.wait_for_function(holds, polling="raf", timeout=_PATIENCE_MS)
        return time.perf_counter() - start

    def change(self, act: Callable[[], None], at: str, attribute: str = "textContent", then: str = "true") -> float:
        """Seconds from an act until the first element `at` says something else, and `then` holds."""
        shown = f"document.querySelector({at!r})?.{attribute}"
        before = self.page.evaluate(shown)
        start = time.perf_counter()
        act()
        return self._until(f"{shown} !== {before!r} && {shown} !== undefined && {then}", start)

    def topic(self, text: str) -> float:
        """Seconds from Enter until the ranking has another best neuron."""
        box = self.page.get_by_label("Topic (each line is one prompt)", exact=True)
        box.fill(text)
        return self.change(lambda: box.press("Enter"), "input[aria-label=Neuron]", "placeholder")

    def row(self, number: int) -> float:
        """Seconds from a click into a row of the ranking until that neuron's figures are there."""
        table = self.page.get_by_test_id("stDataFrame").bounding_box()
        x, y = table["x"] + table["width"] / 2, table["y"] + (number + 0.5) * _ROW_HEIGHT
        return self.change(lambda: self.page.mouse.click(x, y), ".ss-facts")

    def page_named(self, name: str) -> float:
        """Seconds from a click on a page's name until it has settled."""
        link = self.page.get_by_role("link", name=name, exact=True)
        return self.change(lambda: link.click(), "h1", then=_SETTLED)

    def columns(self, seed: int) -> float:
        """Seconds from Generate until four columns are written, measured and drawn."""
        self.open("generate", seed=seed, tokens=TOKENS)
        button = self.page.get_by_test_id("stMain").get_by_role("button", name="Generate", exact=True)
        start = time.perf_counter()
        button.click()
        self._until(f"{_STATE} !== 'notRunning'", start)  # what stood there has figures, too
        return self._until(f"document.querySelectorAll('.ss-figures').length === 4 && {_SETTLED}", start)

    def answer(self, number: int) -> float:
        """Seconds of a special-token answer, steered and not: of a page that writes one, less the same page again."""
        query = {"neuron": PUBLISHED_NEURON, "ask": f"{QUESTION} ({number})", "any_alpha": "true", "alpha": 5}
        return self.open("special_tokens", **query) - self.open("special_tokens", neuron=PUBLISHED_NEURON)


def _bare(model: LanguageModel, prompts: list[str], *, chat: bool) -> float:
    """Seconds of generation without an edit and without figures."""
    settings = GenerationSettings(max_new_tokens=TOKENS, chat=chat, greedy=chat)
    start = time.perf_counter()
    Generator(model, prompts, [], settings, measure=False).finish()
    return time.perf_counter() - start


def _figures(visitor: Visitor, repeats: int) -> list[Figure]:
    """Each is done once to warm up."""
    visitor.open()
    topics = [visitor.topic(text) for text in itertools.islice(itertools.cycle(TOPICS), repeats + 1)]
    rows = [visitor.row(2 + i % 4) for i in range(repeats + 1)]
    names = ["Coverage", "Top-k tokens", "Distributions", "Texts", "SAE training", "Topic"]
    visited = [{name: visitor.page_named(name) for name in names} for _ in range(repeats + 1)][1:]
    slowest = max(names, key=lambda name: statistics.median(turn[name] for turn in visited))
    return [
        Figure("browser: topic typed, to its ranking", statistics.median(topics[1:]), "s", 0.8),
        Figure("browser: row clicked, to the neuron", statistics.median(rows[1:]), "s", 0.5),
        Figure(
            "browser: another page, settled",
            statistics.median(turn[slowest] for turn in visited),
            "s",
            1.0,
            note=f"the slowest of {len(names)}: {slowest}",
        ),
    ]


def _writing(visitor: Visitor, repeats: int) -> list[Figure]:
    """Columns and answers of the app against bare generation of as many rows in this process, turn by turn."""
    model, _ = load_setup(embedded_setup())
    turns = [
        {
            "columns": visitor.columns(100 + number),
            "four rows": _bare(model, [EXAMPLE.prompt] * 4, chat=False),
            "answer": visitor.answer(number),
            "two rows": _bare(model, [QUESTION] * 2, chat=True),
        }
        for number in range(repeats + 1)
    ][1:]
    figures = []
    for what, ours, bare in (
        (f"browser: four columns of {TOKENS} tokens", "columns", "four rows"),
        ("browser: a special-token answer", "answer", "two rows"),
    ):
        ratio = statistics.median(turn[ours] / turn[bare] for turn in turns)
        note = f"{statistics.median(turn[ours] for turn in turns):.1f} s"
        figures.append(Figure(f"{what}, of bare generation", ratio, "x", 1.2, note=note))
    return figures


def run(repeats: int, *, quick: bool) -> list[Figure]:
    """The app of this checkout with the default setup's store in a folder of its own.

    Raises:
        UsageError: there is no Chromium, or no Playwright.
    """
    found = [path for name in CHROMIUM if (path := shutil.which(name))]
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UsageError("the benchmarks of the browser need Playwright: make .venv/installed-dev") from None
    if not found:
        raise UsageError("the benchmarks of the browser need Chromium; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="steerscope-bench-") as folder:
        build(embedded_setup(), Path(folder))
        with served(STEERSCOPE_STORE=folder) as (address, _), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox", "--disable-gpu"])
            visitor = Visitor(browser.new_page(viewport={"width": 1280, "height": 900}), address)
            n = 1 if quick else repeats
            return [*_figures(visitor, n), *_writing(visitor, n)]
