"""What streams is drawn at its start, some times a second, and as it ends."""

import pytest

from pages.shared import pacing
from pages.shared.pacing import DRAW_EVERY_S, paced


def drawn(monkeypatch: pytest.MonkeyPatch, steps: int, step_s: float, draw_s: float) -> list[int]:
    """The steps after which something is drawn, on a clock of its own."""
    clock, done, seen = [0.0], [0], []
    monkeypatch.setattr(pacing.time, "perf_counter", lambda: clock[0])

    def stream():  # type: ignore[no-untyped-def]
        for _ in range(steps):
            clock[0] += step_s
            done[0] += 1
            yield

    for _ in paced(stream()):
        seen.append(done[0])
        clock[0] += draw_s
    return seen


def test_first_and_last_are_drawn_and_some_between(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = drawn(monkeypatch, 64, 0.05, 0.0)
    assert (seen[0], seen[-1]) == (1, 64)
    assert len(seen) == pytest.approx(64 * 0.05 / DRAW_EVERY_S, abs=2)


def test_slow_drawing_takes_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = drawn(monkeypatch, 200, 0.05, 0.1)
    assert 0.1 * len(seen) <= 0.12 * 200 * 0.05


def test_slow_steps_are_all_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, 3, 1.0, 0.01) == [1, 2, 3]


def test_nothing_is_drawn_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, 0, 1.0, 0.0) == []
