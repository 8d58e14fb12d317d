"""The benchmarks run, at sizes that say nothing of speed; their arithmetic is right."""

import json
from pathlib import Path

import pytest

from benchmarks.timing import Figure, speed_ratio, take_turns
from core.cli import main


def test_sides_take_turns_after_one_to_warm_up() -> None:
    order: list[str] = []
    seconds = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_speed_ratio_is_the_median_over_turns() -> None:
    assert speed_ratio({"ours": [1.0, 2.0, 1.0], "other": [2.0, 2.0, 4.0]}, "ours", "other") == 2.0


@pytest.mark.parametrize(("better", "value", "holds"), [("low", 1.9, "yes"), ("low", 2.1, "NO"), ("high", 2.1, "yes")])
def test_figure_says_whether_its_bar_holds(better: str, value: float, holds: str) -> None:
    row = Figure("work", value, "x", 2.0, better).row()  # type: ignore[arg-type]
    assert (row["holds"], row["bar"]) == (holds, "<= 2" if better == "low" else ">= 2")
    assert Figure("work", value, "x").row()["holds"] == ""


@pytest.mark.slow
def test_bench_command_times_queries_and_generation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["bench", "--only", "queries,generation", "--against", "sae_lens", "--repeats", "1"]
    page = tmp_path / "page.md"
    assert main([*arguments, "--quick", "--page", str(page), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    work = [row["work"] for row in rows]
    assert len(work) == len(set(work)) == 17
    assert all(row["value"] > 0 and row["bar"] == "" for row in rows)
    text = page.read_text()
    assert f"`python -m core {' '.join(arguments)} --quick`" in text
    assert all(f"| {name} |" in text for name in work)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["--only", "weather"], "no benchmarks 'weather'"), (["--against", "torch"], "--against takes sae_lens")],
)
def test_bench_refuses_what_it_does_not_know(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert problem in capsys.readouterr().err
