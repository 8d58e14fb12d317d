"""A taste of the soak, so that it still runs: `make soak` is the whole."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak import fuzz
from tests.soak.bench import Bench
from tests.soak.kills import kills


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERSCOPE_STORE", "")  # restores the environment afterwards
        patch.setenv("STEERSCOPE_SETUPS", "")
        yield Bench.write(tmp_path_factory.mktemp("soak"))


def test_killed_command_is_compared_with_an_unbroken_run(bench: Bench) -> None:
    outcome = kills(bench, time.monotonic(), n=1, names=("interpret",))
    assert (outcome.done, outcome.problems) == (1, [])


def test_fuzzed_inputs_are_taken_or_refused_in_words(bench: Bench) -> None:
    outcome = fuzz.fuzz(bench, time.monotonic() + 60, n=400)
    assert outcome.problems == []
    assert outcome.done > 100


def test_a_difference_is_a_problem(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprised(_: Path) -> dict[str, object]:
        return {"one": lambda content: 1 / 0}

    monkeypatch.setattr(fuzz, "_entries", surprised)
    outcome = fuzz.fuzz(bench, time.monotonic(), n=1)
    assert outcome.problems[0].startswith("one: ZeroDivisionError")
