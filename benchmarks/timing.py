"""How everything here is timed: the sides of a comparison take turns, and medians are compared."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    work: str
    value: float
    unit: str
    bar: float | None = None  # None: reported, without a bar
    better: Literal["low", "high"] = "low"
    note: str = ""

    @property
    def holds(self) -> bool | None:
        if self.bar is None:
            return None
        return self.value <= self.bar if self.better == "low" else self.value >= self.bar

    def row(self) -> dict[str, Any]:
        bar = "" if self.bar is None else f"{'<=' if self.better == 'low' else '>='} {self.bar:g}"
        holds = {None: "", True: "yes", False: "NO"}[self.holds]
        return {
            "work": self.work,
            "value": self.value,
            "unit": self.unit,
            "bar": bar,
            "holds": holds,
            "note": self.note,
        }


def take_turns(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, `repeats` times in turn after one turn to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ms(side: Callable[[], object], repeats: int) -> float:
    """Milliseconds that one side takes by itself."""
    return 1e3 * statistics.median(take_turns({"it": side}, repeats)["it"])


def speed_ratio(seconds: Mapping[str, list[float]], ours: str, other: str) -> float:
    """How many times as fast `ours` is: the median of the ratios turn by turn, which slow drifts leave alone."""
    return statistics.median(b / a for a, b in zip(seconds[ours], seconds[other], strict=True))
