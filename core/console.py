"""What the command line prints: tables for people or as JSON, and progress."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from core.progress import Progress as Report  # rich has a Progress of its own

if TYPE_CHECKING:
    import pandas as pd  # slow to import

_PIPE_WIDTH = 200  # characters
_LIST_ITEMS = 6  # items of a list shown in a table cell
_LINE_EVERY_S = 30.0  # between two log lines of a running stage


def plain(value: Any) -> Any:
    """Converts a value to types that JSON can hold; NaN and infinities become null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_json(value: Any) -> None:
    """Prints one JSON document on standard output."""
    print(json.dumps(plain(value), ensure_ascii=False, indent=2))


def _cell(value: Any) -> str:
    value = plain(value)
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1_000 else f"{value:,.0f}"
    if isinstance(value, list):
        return " ".join(repr(v)[1:-1] if isinstance(v, str) else _cell(v) for v in value[:_LIST_ITEMS])
    return str(value)


def print_table(frame: "pd.DataFrame", *, as_json: bool, title: str = "") -> None:
    """Prints a table: aligned columns with three significant figures, or a JSON list of objects at full precision."""
    if as_json:
        print_json(frame.to_dict("records"))
        return
    from pandas.api.types import is_numeric_dtype

    # text objects: rich would take what somebody typed for markup
    table = Table(title=Text(title, style="table.title") if title else None, header_style="bold")
    for column in frame.columns:
        number = is_numeric_dtype(frame[column])
        table.add_column(Text(str(column)), justify="right" if number else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console()
    # a pipe has no width of its own: print wide enough that no column wraps
    (console if console.is_terminal else Console(width=_PIPE_WIDTH)).print(table)


@contextmanager
def stage_progress(title: str) -> Iterator[Report]:
    """Shows progress on standard error: one bar per stage on a terminal, otherwise lines for a log.

    Yields a function of (stage, share done, 0 to 1). A stage is identified by its text before a colon; what follows
    the colon is shown and may change.
    """
    console = Console(stderr=True)
    console.print(title, markup=False)
    with (_bars if console.is_terminal else _lines)(console) as report:
        yield report


@contextmanager
def _bars(console: Console) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description:<14}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, share: float) -> None:
            key = _name(stage)
            for other, task in tasks.items():
                if other != key:
                    progress.stop_task(task)
            if key not in tasks:
                tasks[key] = progress.add_task(stage, total=1.0)
            progress.update(tasks[key], description=stage, completed=share)

        yield report


@contextmanager
def _lines(console: Console) -> Iterator[Report]:
    """Prints a line when a stage begins, every `_LINE_EVERY_S` seconds while it runs, and when it ends."""
    started = time.monotonic()
    printed: tuple[str, bool] | None = None  # stage, and whether it was done
    printed_at = 0.0

    def report(stage: str, share: float) -> None:
        nonlocal printed, printed_at
        now, state = time.monotonic(), (_name(stage), share >= 1)
        if state == printed and (share >= 1 or now - printed_at < _LINE_EVERY_S):
            return
        printed, printed_at = state, now
        elapsed = timedelta(seconds=int(now - started))
        console.print(f"{elapsed} {share:4.0%} {stage}", markup=False, highlight=False, soft_wrap=True)

    yield report


def _name(stage: str) -> str:
    """The stage's text before the colon."""
    return stage.partition(":")[0]
