"""Progress: bars on a terminal, lines in a log."""

import pytest
from rich.console import Console

from core import console
from core.console import stage_progress


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows, as its only element."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_log_has_a_line_a_stage_and_one_every_half_minute(
    seconds: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with stage_progress("Training tiny") as report:
        report("load", 0.0)
        report("load", 1.0)
        report("load", 1.0)  # is done already
        for _ in range(8):
            report("tiny: 900 tokens/s, [2] min left", (seconds[0] - 100) / 80)
            seconds[0] += 10
        report("tiny: 900 tokens/s, 0 min left", 1.0)
    assert capsys.readouterr().err.splitlines() == [
        "Training tiny",
        "0:00:00   0% load",
        "0:00:00 100% load",
        "0:00:00   0% tiny: 900 tokens/s, [2] min left",
        "0:00:30  38% tiny: 900 tokens/s, [2] min left",
        "0:01:00  75% tiny: 900 tokens/s, [2] min left",
        "0:01:20 100% tiny: 900 tokens/s, 0 min left",
    ]


def test_terminal_has_a_bar_a_stage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "Console", lambda **options: Console(**options, force_terminal=True, width=80))
    with stage_progress("Building demo") as report:
        report("load", 1.0)
        report("activations: 3 of 4", 0.75)
    shown = capsys.readouterr().err
    assert "Building demo" in shown
    assert "load" in shown
    assert "activations: 3 of 4" in shown
    assert "75%" in shown
