"""What users of the app save: rows collected for comparison, tables of results, neurons' labels. Never pickled."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import duckdb
import numpy as np
import pandas as pd

from core.errors import StoreDamagedError, StoreWriteError, UsageError
from core.files import exclusive_lock
from core.settings import APP_STORE
from core.store.schema import connect, one_line, quoted

_TABLES = (
    "CREATE TABLE IF NOT EXISTS results (setup VARCHAR, what VARCHAR, saved_at VARCHAR, content VARCHAR,"
    " PRIMARY KEY (setup, what))",
    "CREATE SEQUENCE IF NOT EXISTS collected_ids",
    "CREATE TABLE IF NOT EXISTS collected (id BIGINT PRIMARY KEY DEFAULT nextval('collected_ids'),"
    " collected_at VARCHAR, content VARCHAR)",
    "CREATE TABLE IF NOT EXISTS labels (setup VARCHAR, neuron INTEGER, source VARCHAR, label VARCHAR,"
    " saved_at VARCHAR, PRIMARY KEY (setup, neuron, source))",
    "CREATE TABLE IF NOT EXISTS unfinished (setup VARCHAR, what VARCHAR, run VARCHAR, content VARCHAR,"
    " PRIMARY KEY (setup, what))",
)
LabelSource = Literal["user", "judge"]
LABEL_SOURCES: tuple[LabelSource, ...] = get_args(LabelSource)  # a user's own label comes before a judge's
MAX_LABEL_CHARACTERS = 300

# DuckDB raises one class of error for a damaged file and for a full disk; these words mean a damaged file
_SIGNS_OF_DAMAGE = ("not a valid DuckDB", "read enough bytes", "checksum")


class AppStore:
    """A small DuckDB file beside the setups' stores. Threads and processes can use it at the same time.

    Every call opens the file under a lock, and closes it again. All calls raise:
        StoreBusyError: another process held the file for more than `timeout_s`.
        StoreWriteError: the disk is full, or the folder is not writable; what was saved before is intact.
        StoreDamagedError: the file cannot be read.
    """

    def __init__(self, root: Path, *, timeout_s: float = 10.0) -> None:
        self.path = root / APP_STORE
        self.timeout_s = timeout_s

    def check(self) -> None:
        """Tries, before long work begins, that what it finds can be saved, and reads what is there.

        Raises:
            StoreBusyError, StoreWriteError, StoreDamagedError: as every call.
        """
        with self._connection() as con:
            for table in ("results", "collected", "labels", "unfinished"):
                con.execute(f"SELECT bit_xor(hash(t)) FROM {table} AS t").fetchall()

    def save_result(self, setup_name: str, what: str, table: pd.DataFrame) -> None:
        """Saves a table, without its index, under a setup and a name; replaces an earlier one of that name.

        Args:
            table: columns of numbers, text, booleans, times, or lists of these.
        """
        content = _to_json(table)
        with self._connection() as con:
            con.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", [setup_name, what, _now(), content])

    def result(self, setup_name: str, what: str) -> pd.DataFrame | None:
        """The table saved under that name, or None."""
        with self._connection() as con:
            row = con.execute("SELECT content FROM results WHERE setup = ? AND what = ?", [setup_name, what]).fetchone()
        return None if row is None else _from_json(row[0])

    def results(self) -> pd.DataFrame:
        """The saved tables: setup, what, saved_at (UTC)."""
        with self._connection() as con:
            return con.execute("SELECT setup, what, saved_at FROM results ORDER BY setup, what").df()

    def contents(self, setup_name: str) -> pd.DataFrame:
        """The saved tables of a setup as they are kept: what, saved_at, content (JSON)."""
        with self._connection() as con:
            return con.execute(
                "SELECT what, saved_at, content FROM results WHERE setup = ? ORDER BY what", [setup_name]
            ).df()

    def add_missing(self, setup_name: str, contents: Sequence[Mapping[str, str]]) -> None:
        """Saves those of the `contents` whose name the setup has no table of yet."""
        rows = [[setup_name, row["what"], row["saved_at"], row["content"]] for row in contents]
        if not rows:  # DuckDB refuses to run a statement no times
            return
        with self._connection() as con:
            con.executemany("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?)", rows)

    # ---- work that may be stopped ----

    def keep(self, setup_name: str, what: str, run: str, tables: Mapping[str, pd.DataFrame]) -> None:
        """Keeps what a run has finished of some work, in place of what an earlier one kept of it.

        Args:
            run: identifies the run: only one with the same settings goes on from there.
        """
        content = json.dumps({name: _to_json(table) for name, table in tables.items()}, ensure_ascii=False)
        with self._connection() as con:
            con.execute("INSERT OR REPLACE INTO unfinished VALUES (?, ?, ?, ?)", [setup_name, what, run, content])

    def kept(self, setup_name: str, what: str, run: str) -> dict[str, pd.DataFrame]:
        """What `keep` kept of that run; nothing if there is none."""
        with self._connection() as con:
            row = con.execute(
                "SELECT content FROM unfinished WHERE setup = ? AND what = ? AND run = ?", [setup_name, what, run]
            ).fetchone()
        return {} if row is None else {name: _from_json(table) for name, table in json.loads(row[0]).items()}

    def forget(self, setup_name: str, what: str) -> None:
        """Drops what was kept of that work, once it is finished."""
        with self._connection() as con:
            con.execute("DELETE FROM unfinished WHERE setup = ? AND what = ?", [setup_name, what])

    # ---- rows for comparison ----

    def collect(self, row: Mapping[str, Any]) -> int | None:
        """Saves a row for comparison; returns its id, or None where the same row is there already."""
        content = json.dumps(dict(row), default=_plain, ensure_ascii=False)
        with self._connection() as con:
            if con.execute("SELECT 1 FROM collected WHERE content = ?", [content]).fetchone():
                return None
            added = con.execute(
                "INSERT INTO collected (collected_at, content) VALUES (?, ?) RETURNING id", [_now(), content]
            ).fetchall()
        return int(added[0][0])

    def collected(self) -> pd.DataFrame:
        """Every collected row, oldest first: id, collected_at (UTC), and the union of the rows' own columns."""
        with self._connection() as con:
            rows = con.execute("SELECT id, collected_at, content FROM collected ORDER BY id").fetchall()
        records = [{"id": key, "collected_at": at, **json.loads(content)} for key, at, content in rows]
        return pd.DataFrame.from_records(records) if records else pd.DataFrame(columns=["id", "collected_at"])

    def discard(self, ids: list[int]) -> None:
        """Deletes collected rows; unknown ids are ignored."""
        with self._connection() as con:
            con.execute("DELETE FROM collected WHERE id IN (SELECT unnest(?::BIGINT[]))", [ids])

    def save_labels(self, setup_name: str, labels: Mapping[int, str], source: LabelSource) -> None:
        """Saves what neurons are called, each replacing that source's earlier label; an empty label removes it.

        Raises:
            UsageError: no such source, or a label is too long; nothing is saved.
        """
        if source not in LABEL_SOURCES:
            raise UsageError(f"labels come from {' or '.join(LABEL_SOURCES)}, not '{source}'")
        lines = {int(neuron): " ".join(label.split()) for neuron, label in labels.items()}
        for neuron, line in lines.items():
            if len(line) > MAX_LABEL_CHARACTERS:
                raise UsageError(
                    f"a label has at most {MAX_LABEL_CHARACTERS} characters, neuron {neuron}'s has {len(line):,}: "
                    "shorten it"
                )
        kept = [[setup_name, neuron, source, line, _now()] for neuron, line in lines.items() if line]
        with self._connection() as con:
            con.execute(
                "DELETE FROM labels WHERE setup = ? AND source = ? AND neuron IN (SELECT unnest(?::INTEGER[]))",
                [setup_name, source, list(lines)],
            )
            if kept:
                con.executemany("INSERT INTO labels VALUES (?, ?, ?, ?, ?)", kept)

    def labels(self, setup_name: str) -> pd.DataFrame:
        """The labels of a setup's neurons: neuron, label, source, saved_at (UTC)."""
        with self._connection() as con:
            return con.execute(
                "SELECT neuron, label, source, saved_at FROM labels WHERE setup = ? ORDER BY neuron, source DESC",
                [setup_name],
            ).df()

    @contextmanager
    def _connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        busy = f"'{self.path}' is in use by process {{process}}; close the other program, or try again"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(self.path.with_suffix(".lock"), busy=busy, timeout_s=self.timeout_s):
                con = connect(":memory:")
                try:
                    con.execute(f"ATTACH {quoted(self.path)} AS app (TYPE DUCKDB)")  # by type: it may be anything
                    con.execute("USE app")
                    for statement in _TABLES:
                        con.execute(statement)
                    yield con
                finally:
                    con.close()
        except (OSError, duckdb.Error) as exc:
            reason = one_line(exc)
            if isinstance(exc, OSError | duckdb.IOException) and not any(sign in reason for sign in _SIGNS_OF_DAMAGE):
                raise StoreWriteError(self.path, reason, "what was saved before is intact") from exc
            mend = shlex.join(["mv", str(self.path), f"{self.path}.damaged"])
            raise StoreDamagedError(self.path, reason, mend) from exc


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """Converts a value that JSON cannot hold to one that it can."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, datetime | Path):
        return str(value)
    raise TypeError(f"a stored table holds numbers, text, booleans, times and lists, not {type(value).__name__}")


def _to_json(table: pd.DataFrame) -> str:
    columns = [
        {"name": str(name), "dtype": str(column.dtype), "values": [None if _missing(v) else v for v in column.tolist()]}
        for name, column in table.items()
    ]
    return json.dumps(columns, default=_plain, ensure_ascii=False)


def _missing(value: Any) -> bool:
    return value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and np.isnan(value))


def _from_json(content: str) -> pd.DataFrame:
    columns = json.loads(content)
    return pd.DataFrame({c["name"]: pd.Series(c["values"], dtype=c["dtype"]) for c in columns})
