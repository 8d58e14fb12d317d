"""How well judges and people say that neurons can be read, one row a rating, in the app's own file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from typing import Literal

import duckdb
import pandas as pd

from core.results.app_store import AppStore

Kind = Literal["judge", "person"]

_TABLE = """CREATE TABLE IF NOT EXISTS ratings (
    setup VARCHAR, fingerprint VARCHAR, source VARCHAR, neuron INTEGER, question VARCHAR, kind VARCHAR, rater VARCHAR,
    score INTEGER, summary VARCHAR, problem VARCHAR, rated_at VARCHAR,
    PRIMARY KEY (setup, neuron, question, kind, rater))"""


@dataclass(frozen=True, kw_only=True)
class NeuronRating:
    """What one rater says of one neuron's contexts."""

    setup: str
    fingerprint: str  # of the setup's store: a number means another neuron in another SAE
    source: str  # where the contexts come from, in words
    neuron: int
    question: str  # digest of what was asked; a neuron with other contexts is another question
    kind: Kind
    rater: str  # a judge's model, or a person's name
    score: int | None  # 1 to 5; None: no valid answer
    summary: str = ""
    problem: str = ""  # why there is no valid answer


class RatingStore(AppStore):
    """The app's store with its table of ratings. Raises what `AppStore` raises."""

    def save_ratings(self, ratings: Sequence[NeuronRating]) -> None:
        """Saves ratings; each replaces an earlier answer of the same rater to the same question."""
        rows = [[*astuple(rating), datetime.now(UTC).isoformat(timespec="seconds")] for rating in ratings]
        if not rows:  # DuckDB refuses to run a statement no times
            return
        with self._connection() as con:
            con.executemany(f"INSERT OR REPLACE INTO ratings VALUES ({', '.join('?' * len(rows[0]))})", rows)

    def ratings(self, setup_name: str | None = None) -> pd.DataFrame:
        """The ratings of one setup, or of all: the fields of `NeuronRating`, and rated_at (UTC), oldest first."""
        chosen = "" if setup_name is None else "WHERE setup = ?"
        with self._connection() as con:
            return con.execute(
                f"SELECT * FROM ratings {chosen} ORDER BY setup, rated_at, neuron, kind, rater",
                [] if setup_name is None else [setup_name],
            ).df()

    @contextmanager
    def _connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with super()._connection() as con:
            con.execute(_TABLE)
            yield con


COLUMNS = (*(field.name for field in fields(NeuronRating)), "rated_at")
