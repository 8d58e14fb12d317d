"""How long a user waits: help of the command line, and the app until its first page answers."""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.models import embedded_setup
from benchmarks.timing import Figure

_PATIENCE_S = 120


def _help() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "core", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def served(**environment: str) -> Iterator[tuple[str, float]]:
    """Runs the app; its address, and the seconds until the server was healthy."""
    port = _free_port()
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.headless=true"]
    own, quiet = {**os.environ, **environment}, subprocess.DEVNULL
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=own) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/_stcore/health")
            yield f"http://127.0.0.1:{port}", time.perf_counter() - start
        finally:
            server.terminate()


def _wait_for(address: str) -> None:
    deadline = time.perf_counter() + _PATIENCE_S
    while time.perf_counter() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"the app did not answer within {_PATIENCE_S} s")


def _app_answers() -> float:
    with served() as (_, seconds):
        return seconds


def _first_build() -> float:
    """The first build of the default setup: the model made an ordinary folder, the shipped store assembled."""
    with tempfile.TemporaryDirectory(prefix="steerscope-bench-") as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "core", "build", embedded_setup().name, "--store", folder]
        subprocess.run(command, capture_output=True, check=True)
        return time.perf_counter() - start


def run(repeats: int, *, quick: bool) -> list[Figure]:
    """Medians; these are seconds of this machine, not ratios."""
    n = 1 if quick else repeats
    help_s, answers_s = (statistics.median(side() for _ in range(n)) for side in (_help, _app_answers))
    return [
        Figure("python -m core --help", help_s, "s", 1.0),
        Figure("streamlit run app.py, until it answers", answers_s, "s", 5.0),
        Figure("first build of the default setup", _first_build(), "s", 60.0, note="once"),
    ]
