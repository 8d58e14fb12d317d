"""The command itself, killed and interrupted in the middle: no neuron whose answer was kept is asked about again."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.interpretability.contexts import contexts_from_store, drawn_from_store
from core.interpretability.rubric import question
from core.results.ratings import RatingStore
from core.store.reader import Store
from tests.fixtures.judge_endpoint import Endpoint, Reply
from tests.fixtures.stores import random_dense

N = 128
GOOD = '{"summary": "words of a kind", "score": 4}'
FAILURES: tuple[Reply, ...] = (429, 500, "no JSON", '{"summary": "a", "score": 7}')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    random_dense(0, d_sae=160).write(tmp_path).close()
    (tmp_path / "setups.toml").write_text('[setups.tiny]\nmodel = "no-model"\nsae = "no-sae"\n', encoding="utf-8")
    return tmp_path


@pytest.fixture
def questions(root: Path) -> Iterator[Counter[str]]:
    with Store.open(root, "tiny") as store:
        yield Counter(question(contexts_from_store(store, neuron)) for neuron in drawn_from_store(store, N, 0))


def start(root: Path, endpoint: Endpoint) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "core", "interpret", "tiny", "--neurons", str(N), "--store", str(root)]
    environment = os.environ | {"STEERSCOPE_SETUPS": str(root / "setups.toml"), "STEERSCOPE_JUDGE_KEY": "secret-key"}
    return subprocess.Popen(
        [*command, "--judge", endpoint.url, "--model", "m"], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)


def plain(asked: str) -> str:
    return asked.partition("\n\nYour last answer")[0]


def test_killed_and_run_again_asks_about_no_neuron_twice(
    root: Path, endpoint: Endpoint, questions: Counter[str]
) -> None:
    seen: Counter[str] = Counter()
    released, lock, valid = threading.Event(), threading.Lock(), Counter[str]()

    def answer(asked: str) -> Reply:
        """Every third question fails once, and after 40 answers nothing more comes until the client is dead."""
        with lock:
            number = len(seen)
            seen[plain(asked)] += 1
            if number % 3 == 0 and seen[plain(asked)] == 1:
                return 503 if released.is_set() else FAILURES[number // 3 % len(FAILURES)]
            if sum(valid.values()) < 40 or released.is_set():
                valid[plain(asked)] += 1
                return GOOD
        released.wait()
        return 503

    endpoint.answer = answer
    results = RatingStore(root)
    killed = start(root, endpoint)
    wait_for(lambda: len(results.ratings()) == 40, killed)
    killed.kill()
    killed.communicate()
    assert sum(valid.values()) == 40
    released.set()

    resumed = start(root, endpoint)
    out, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    assert "40 answered before; 88 requests to m" in err
    assert valid == questions == dict.fromkeys(questions, 1)  # one valid answer a neuron, in both runs together
    table = results.ratings()
    assert len(table) == N
    assert set(table["score"]) == {4}
    assert "secret-key" not in out + err
    asked = len(endpoint.asked)
    again = start(root, endpoint)
    assert "nothing to ask" in again.communicate(timeout=300)[1]
    assert len(endpoint.asked) == asked


def test_interrupted_keeps_the_answers_under_way(root: Path, endpoint: Endpoint) -> None:
    endpoint.replies, endpoint.delay_s = [GOOD], 0.2
    stopped = start(root, endpoint)
    wait_for(lambda: len(endpoint.answered) >= 12, stopped)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 1
    assert "stopped; run the same command again to continue" in err
    assert 12 <= len(endpoint.asked) < N
    assert len(RatingStore(root).ratings()) == len(endpoint.answered) == len(endpoint.asked)


def test_an_endpoint_that_is_not_there_is_told_in_one_line(root: Path, endpoint: Endpoint) -> None:
    endpoint.replies = [401]
    done = start(root, endpoint)
    out, err = done.communicate(timeout=60)
    assert done.returncode == 2
    assert [line for line in err.splitlines() if "error" in line] == [
        f"error: the judge at '{endpoint.url}' gives no answer (status 401); check the variables STEERSCOPE_JUDGE_*"
    ]
    assert "secret-key" not in out + err
