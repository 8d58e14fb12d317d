"""How long a user waits: help of the command line, and the app until its first page answers."""

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from benchmarks.timing import Figure


def _help() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "core", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _app_answers() -> float:
    """Seconds from `streamlit run` until the server is healthy."""
    port = _free_port()
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.headless=true"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ) as server:
        try:
            while time.perf_counter() - start < 120:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1):
                        return time.perf_counter() - start
                except OSError:
                    time.sleep(0.05)
            raise TimeoutError("the app did not answer within 120 s")
        finally:
            server.terminate()


def run(repeats: int, *, quick: bool) -> list[Figure]:
    """Medians; these are seconds of this machine, not ratios."""
    n = 1 if quick else repeats
    return [
        Figure("python -m core --help", statistics.median(_help() for _ in range(n)), "s", 1.0),
        Figure("streamlit run app.py, until it answers", statistics.median(_app_answers() for _ in range(n)), "s", 5.0),
    ]
