"""A real server and a real Chromium. Where no Chromium is found, the tests skip and say how to get one."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, Playwright, Route, expect, sync_playwright

from core.build.pipeline import build
from core.catalog import find_setup

ROOT = Path(__file__).resolve().parents[2]
SETUP = "gpt2-topk"
MIN_PROMPTS = 5  # of the 96 reference prompts
PATIENCE_S = 180  # the machine may be busy; no test asserts a time
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Headless Chromium, the one that the system has."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


def launch(playwright: Playwright) -> Browser:
    """Starts the system's Chromium, or skips where there is none."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium found; on Debian: apt-get install --no-install-recommends chromium")
    expect.set_options(timeout=1_000 * PATIENCE_S)
    return playwright.chromium.launch(executable_path=found[0], args=ARGUMENTS)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Path:
    """Root with the built store of `SETUP`."""
    root = tmp_path_factory.mktemp("stores")
    build(find_setup(SETUP, user_setups), root)
    return root


@contextmanager
def serving(stores: Path, user_setups: Path, log: Path) -> Iterator[str]:
    """Runs the app as a user would; the address of the server."""
    with closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    environment = {**os.environ, "STEERSCOPE_STORE": str(stores), "STEERSCOPE_SETUPS": str(user_setups)}
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_for(f"http://localhost:{port}/_stcore/health", server, log)
            yield f"http://localhost:{port}"
        finally:
            server.terminate()
            server.wait(timeout=PATIENCE_S)
            print(log.read_text())  # which pytest shows beside a failure


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"the app did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def server(stores: Path, user_setups: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(stores, user_setups, tmp_path_factory.mktemp("server") / "log.txt") as address:
        yield address


class Visitor:
    """A browser page that has no way out of this machine, and that notes what goes wrong in it."""

    def __init__(self, page: Page, server: str) -> None:
        self.page, self.server = page, server
        self.problems: list[str] = []
        page.set_default_timeout(1_000 * PATIENCE_S)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.route(lambda url: not url.startswith((server, "data:", "blob:", "file:")), self._refuse)

    def _refuse(self, route: Route) -> None:
        self.problems.append(f"request to {route.request.url}")
        route.abort()

    def open(self, path: str = "", **query: str) -> Page:
        """Opens a page of the app for `SETUP` and waits until its run is over."""
        self.begin(path, **{"setup": SETUP, "min_prompts": str(MIN_PROMPTS), **query})
        self.settled()
        return self.page

    def begin(self, path: str, **query: object) -> None:
        """Opens a page of the app; what comes of it is not waited for."""
        self.page.goto(f"{self.server}/{path}?{urlencode(query, doseq=True)}", wait_until="commit")

    def settled(self) -> None:
        """Waits until the page has a title and no run is going on."""
        expect(self.page.locator("h1")).to_be_visible()
        expect(self.page.locator('.stApp[data-test-script-state="notRunning"]')).to_be_visible()


@contextmanager
def visiting(chromium: Browser, server: str, **options: object) -> Iterator[Visitor]:
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})  # type: ignore[arg-type]
    try:
        yield Visitor(context.new_page(), server)
    finally:
        context.close()


@pytest.fixture
def visitor(chromium: Browser, server: str) -> Iterator[Visitor]:
    """A visitor at 1280 px; nothing may have gone wrong in the page by the end."""
    with visiting(chromium, server) as guest:
        yield guest
        assert guest.problems == []
