"""Browser sessions side by side, each with its own topic, edits and seed; some press Stop while text streams."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import Visitor, launch, serving, visiting
from tests.soak.bench import SETUP, Bench, Outcome

if TYPE_CHECKING:
    from core.steering.workbench import Workbench

N_SESSIONS = 50
TOPICS = ("heart surgery", "court law", "running shoes", "boiling soup", "rain in spring")
EDITS = {"Original": "none", "SAE": "sae", "Clamp": "clamp", "Swap": "swap"}
PROMPT, TOKENS, LONG = "The soup", 12, 200
MIN_PROMPTS = 5


@dataclass(frozen=True)
class Session:
    """What one visitor asks for; every fifth asks for long texts and stops them."""

    number: int

    @property
    def topic(self) -> str:
        return f"{TOPICS[self.number % len(TOPICS)]} {self.number}"

    @property
    def columns(self) -> list[str]:
        names = list(EDITS)
        return names if self.number % 3 else [names[0], names[2 + self.number % 2]]

    @property
    def stops(self) -> bool:
        return self.number % 5 == 4

    @property
    def tokens(self) -> int:
        return LONG if self.stops else TOKENS

    def open(self, guest: Visitor) -> None:
        guest.begin(
            "generate", setup=SETUP, min_prompts=MIN_PROMPTS, topic=self.topic, prompt=PROMPT, seed=self.number,
            tokens=self.tokens, columns=self.columns,
        )  # fmt: skip

    def expected(self, bench: "Workbench") -> list[str]:
        """The texts of its columns, made alone in this process."""
        from core.evaluation.example import EXAMPLE
        from core.settings import GenerationSettings, ScoreSettings
        from core.text.prompts import parse_topic

        scored = bench.score(parse_topic(self.topic), ScoreSettings(min_prompts=MIN_PROMPTS))
        settings = GenerationSettings(max_new_tokens=self.tokens, seed=self.number)
        ways = [bench.way(EDITS[name], scored, EXAMPLE.steering) for name in self.columns]
        made = bench.together(ways, [PROMPT], scored, settings).finish()
        return [_words("".join(generation.tokens)) for generation in made]


def _words(text: str) -> str:
    return " ".join(text.replace("↵", "").split())


def _texts(guest: Visitor) -> list[str]:
    columns = guest.page.locator(".ss-columns section")
    return [_words("".join(columns.nth(i).locator(".ss").all_inner_texts())) for i in range(columns.count())]


def _wrong(session: Session, guest: Visitor, bench: "Workbench") -> str | None:
    """What a session shows that it should not, if anything."""
    shown, expected = _texts(guest), session.expected(bench)
    if guest.problems:
        return guest.problems[0]
    if session.stops:
        begun = [text.startswith(part) for part, text in zip(shown, expected, strict=False)]
        return None if len(shown) == len(expected) and all(begun) else f"stopped, it shows {shown}, not of {expected}"
    return None if shown == expected else f"it shows {shown} instead of {expected}"


@contextmanager
def _guests(browser: Browser, address: str, n: int) -> Iterator[list[Visitor]]:
    with ExitStack() as stack:
        yield [stack.enter_context(visiting(browser, address)) for _ in range(n)]


def _press(guest: Visitor, name: str) -> None:
    guest.page.get_by_test_id("stMain").get_by_role("button", name=name, exact=True).click()


def sessions(bench: Bench, until: float, n: int = N_SESSIONS) -> Outcome:
    """All are open before the first generates; every one must show what the same request gives alone."""
    from core import api

    outcome, asked = Outcome("browser sessions at once"), [Session(number) for number in range(n)]
    os.environ.update(bench.environment())
    started = time.monotonic()
    alone = api.open_setup(SETUP, store=bench.base)
    setups, log = bench.folder / "setups.toml", bench.folder / "server.txt"
    with sync_playwright() as playwright, serving(bench.base, setups, log) as address:
        browser = launch(playwright)
        with _guests(browser, address, n) as guests:
            for session, guest in zip(asked, guests, strict=True):
                session.open(guest)
            for guest in guests:
                guest.settled()
            for guest in guests:
                _press(guest, "Generate")
            for session, guest in zip(asked, guests, strict=True):
                if session.stops:
                    guest.page.locator(".ss").first.wait_for()
                    _press(guest, "Stop")
            for session, guest in zip(asked, guests, strict=True):
                guest.settled()
                if (problem := _wrong(session, guest, alone)) is not None:
                    outcome.problems.append(f"session {session.number}: {problem}")
                outcome.done += 1
    outcome.what += f" ({time.monotonic() - started:.0f} s)"
    if "Traceback" in log.read_text(encoding="utf-8"):
        outcome.problems.append("a traceback in the server's log")
    return outcome
