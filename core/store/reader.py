"""The store of a setup, read-only: prompts, embeddings, activations, neurons, contexts.

SQL is written only here, in `schema` (assembly) and in `results.app_store` (what users of the app save).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import duckdb
import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from core.errors import NeuronRangeError, StoreDamagedError, StoreNotBuiltError, StoreSchemaError
from core.settings import ScoreSettings, Summary
from core.store.schema import SCHEMA_VERSION, TABLES, build_command, one_line, quoted, store_path

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_array

_HEADER_BYTES = 3 * 4_096  # at the start of a DuckDB file
_QUARTILE = 0.25
# for each summary: the column of `activations` it reads, and the column of `prompts` it is divided by
_SUMMARIES = {
    "sum": ("sum", "total"),
    "max": ("max", None),
    "mean": ("sum", "n_tokens"),
    "count": ("n_tokens", "n_tokens"),
}


@dataclass(frozen=True)
class Context:
    """A prompt on which a neuron is strongly active."""

    prompt: int
    text: str
    tokens: list[str]
    activations: Float32[np.ndarray, "token"]  # 0 where the neuron is not active
    max: float


class Store:
    """One setup's store. Threads can share it, because each call uses its own cursor.

    Every read raises StoreDamagedError if the file is corrupt.
    """

    def __init__(self, path: Path, mend: str) -> None:
        self.path = path
        self._mend = mend
        self._identity = _identity(path)
        # The file is attached to a private in-memory database: direct connections of one process to one path share an
        # instance, and would keep showing the old file after a rebuild.
        # The threshold lets sums over up to 2^20 neurons use a plain array instead of a hash table.
        self._con = duckdb.connect(":memory:", config={"perfect_ht_threshold": 20})

    @classmethod
    def open(cls, root: Path, setup_name: str) -> Self:
        """Opens the store of a setup and checks its version, tables, columns and length.

        Raises:
            StoreNotBuiltError: the setup has no store.
            StoreSchemaError: another version of this program wrote it.
            StoreDamagedError: it is cut short, corrupt, or lacks a table or column.
        """
        path, mend = store_path(root, setup_name), build_command(root, setup_name)
        if not path.is_file():
            raise StoreNotBuiltError(path, mend)
        store = cls(path, mend)
        try:
            with store._cursor() as con:
                con.execute(f"ATTACH {quoted(path)} AS store (READ_ONLY)")
            store._check_schema()
            store._check_length()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        self._con.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def changed(self) -> bool:
        """Whether the file was replaced or removed since it was opened, so that it should be opened again."""
        return _identity(self.path) != self._identity

    # ---- checks ----

    def _check_schema(self) -> None:
        columns = self._frame("SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'store'")
        found = set(columns.itertuples(index=False, name=None))
        if {("meta", "key"), ("meta", "value")} <= found:
            version = self.meta.get("schema_version", "unknown")
            if version != str(SCHEMA_VERSION):
                raise StoreSchemaError(self.path, version, SCHEMA_VERSION, self._mend)
        for table, names in TABLES.items():
            if missing := [name for name in names if (table, name) not in found]:
                problem = f"table '{table}' has no column '{missing[0]}'"
                if len(missing) == len(names):
                    problem = f"no table '{table}'"
                raise StoreDamagedError(self.path, problem, self._mend)

    def _check_length(self) -> None:
        """Detects a truncated file, which DuckDB notices only on reading past the end."""
        sizes = self._frame("SELECT block_size, total_blocks FROM pragma_database_size() WHERE database_name = 'store'")
        due = _HEADER_BYTES + int(sizes.block_size[0]) * int(sizes.total_blocks[0])
        if (there := self.path.stat().st_size) < due:
            raise StoreDamagedError(self.path, f"cut short, {there:,} of {due:,} bytes", self._mend)

    def check(self) -> None:
        """Reads every block of the file, so that DuckDB verifies its checksums.

        Raises:
            StoreDamagedError: a block is corrupt.
        """
        for table in TABLES:
            self._frame(f"SELECT bit_xor(hash(t)) FROM store.{table} AS t")

    # ---- the whole ----

    def mean_token(self) -> tuple[Float[np.ndarray, "d_sae"], int]:
        """Activation of every neuron, mean over all reference tokens, and the mean number of active neurons a token."""
        neurons = self._frame("SELECT tokens, mean FROM store.neurons ORDER BY neuron")
        n_tokens = int(self._frame("SELECT sum(n_tokens) AS n FROM store.prompts")["n"][0])
        mean = (neurons["tokens"] * neurons["mean"] / n_tokens).to_numpy()
        return mean, round(float(neurons["tokens"].sum()) / n_tokens)

    def table(self, name: str, columns: str, order: str) -> "pa.Table":
        """A whole table of the store, as Arrow; `columns` and `order` are SQL."""
        with self._cursor() as con:
            return con.sql(f"SELECT {columns} FROM store.{name} ORDER BY {order}").to_arrow_table()

    @cached_property
    def meta(self) -> dict[str, str]:
        """The setup's fields, and the build's digests, counts, package versions and times in seconds."""
        rows = self._frame("SELECT key, value FROM store.meta ORDER BY key")
        return dict(zip(rows["key"], rows["value"], strict=True))

    @property
    def d_sae(self) -> int:
        return int(self.meta["d_sae"])

    @property
    def n_prompts(self) -> int:
        return int(self.meta["n_prompts"])

    @cached_property
    def _embeddings(self) -> Float32[np.ndarray, "prompt d_embedding"]:
        rows = self._columns("SELECT embedding FROM store.embeddings ORDER BY prompt")["embedding"]
        embeddings: np.ndarray = np.stack(rows)  # type: ignore[call-overload]
        embeddings.setflags(write=False)
        return embeddings

    def embeddings(self) -> Float32[np.ndarray, "prompt d_embedding"]:
        """Unit-normalised embeddings of the reference prompts, as a read-only array; read once, then kept."""
        return self._embeddings

    def prompts(self) -> pd.DataFrame:
        """The reference prompts: prompt, text, task, group, n_tokens, total (activation of all neurons), tokens."""
        return self._frame(
            'SELECT prompt, text, task, grp AS "group", n_tokens, total, tokens FROM store.prompts ORDER BY prompt'
        )

    def neurons(self, neurons: Sequence[int] | None = None) -> pd.DataFrame:
        """Statistics of all neurons, or of those given, ordered by number; columns as in `schema.TABLES`.

        Raises:
            NeuronRangeError: the SAE has no such neuron.
        """
        if neurons is None:
            return self._frame("SELECT * FROM store.neurons ORDER BY neuron")
        return self._frame(
            "SELECT * FROM store.neurons WHERE neuron IN (SELECT unnest(?)) ORDER BY neuron", [self._known(neurons)]
        )

    def reference_max(self) -> Float32[np.ndarray, "d_sae"]:
        """Each neuron's largest activation on the reference prompts; 0 where it never fires."""
        return self._columns('SELECT "max" FROM store.neurons ORDER BY neuron')["max"]

    # ---- sums over prompts ----

    @cached_property
    def _prompt_columns(self) -> dict[str, np.ndarray]:
        return self._columns("SELECT prompt, total, n_tokens FROM store.prompts ORDER BY prompt")

    def _prompt_weights(self, distances: Float[np.ndarray, "prompt"], settings: ScoreSettings) -> pd.DataFrame:
        """The factors of each prompt's activations in the sums of `neuron_sums`."""
        columns, divisor = self._prompt_columns, _SUMMARIES[settings.summary][1]
        ones = np.ones(self.n_prompts)
        divided_by = ones if divisor is None else columns[divisor].astype(np.float64)
        weight = np.divide(1.0, divided_by, out=np.zeros(self.n_prompts), where=divided_by > 0)
        exact = distances.astype(np.float64)
        nearest, farthest = np.quantile(exact, [_QUARTILE, 1 - _QUARTILE])
        return pd.DataFrame(
            {
                "prompt": columns["prompt"],
                "weight": weight,
                "weighted_distance": weight * exact**settings.distance_power,
                "near": weight * (exact <= nearest),
                "far": weight * (exact >= farthest),
            }
        )

    def neuron_sums(
        self, distances: Float[np.ndarray, "prompt"], settings: ScoreSettings | None = None
    ) -> pd.DataFrame:
        """Sums over the reference prompts for Eq. 1 of the Topic Alignment paper, in double precision.

        Args:
            distances: Euclidean distance of each reference prompt from the topic; the settings choose its power.

        Returns:
            One row per active neuron, ordered by number: neuron, prompts (how many activate it), weight (its summed
            summary), g (summary-weighted mean distance), near and far (share of weight on the quarter of the prompts
            nearest to, and farthest from, the topic).
        """
        if distances.shape != (self.n_prompts,):
            raise ValueError(f"one distance for each of {self.n_prompts} prompts, not shape {distances.shape}")
        settings = settings or ScoreSettings()
        column = f'"{_SUMMARIES[settings.summary][0]}"'
        with self._cursor() as con:
            con.register("weights_frame", self._prompt_weights(distances, settings))
            # a temporary table joins twice as fast as the registered frame
            con.execute("CREATE OR REPLACE TEMP TABLE weights AS SELECT * FROM weights_frame")
            return con.execute(
                f"""SELECT neuron, prompts, weight, moment / weight AS g, near / weight AS near, far / weight AS far
                    FROM (SELECT neuron, count(*) AS prompts, sum({column} * w.weight) AS weight,
                                 sum({column} * w.weighted_distance) AS moment,
                                 sum({column} * w.near) AS near, sum({column} * w.far) AS far
                          FROM store.activations JOIN weights AS w USING (prompt) GROUP BY neuron)
                    ORDER BY neuron"""
            ).df()

    def group_mass(self, neurons: Sequence[int] | None = None) -> pd.DataFrame:
        """Each group of prompts with its share of these (or all) neurons' activation, largest first.

        Raises:
            NeuronRangeError: the SAE has no such neuron.
        """
        chosen = "" if neurons is None else "WHERE neuron IN (SELECT unnest(?))"
        parameters = [] if neurons is None else [self._known(neurons)]
        return self._frame(
            f"""SELECT grp AS "group", mass / sum(mass) OVER () AS share
                FROM (SELECT grp, sum("sum"::DOUBLE) AS mass
                      FROM store.activations JOIN store.prompts USING (prompt) {chosen} GROUP BY grp)
                ORDER BY share DESC, "group" """,
            parameters,
        )

    def summary_matrix(self, summary: Summary = "sum") -> "csr_array":
        """Every neuron's summary on every reference prompt: sparse float64 [prompt d_sae].

        For experiments over many sets of prompts; `neuron_sums` scores a topic on the whole reference set. Takes about
        30 bytes per stored activation while reading, 12 bytes afterwards.
        """
        from scipy.sparse import coo_array

        column, divisor = _SUMMARIES[summary]
        rows = self._columns(f'SELECT prompt, neuron, "{column}" AS activation FROM store.activations')
        values = rows["activation"].astype(np.float64)
        if divisor is not None:
            values /= self._prompt_columns[divisor][rows["prompt"]]
        shape = (self.n_prompts, self.d_sae)
        return coo_array((values, (rows["prompt"], rows["neuron"])), shape=shape).tocsr()

    # ---- one neuron ----

    def neuron_rows(self, neuron: int) -> pd.DataFrame:
        """The reference prompts on which a neuron is active.

        Returns:
            Columns prompt, sum, max, n_tokens (on which the neuron is active), text, task, group, total (activation
            of all neurons on the prompt), prompt_tokens (all its ordinary tokens).

        Raises:
            NeuronRangeError: the SAE has no such neuron.
        """
        return self._frame(
            """SELECT a.prompt, a.sum, a.max, a.n_tokens, p.text, p.task, p.grp AS "group", p.total,
                      p.n_tokens AS prompt_tokens
               FROM store.activations AS a JOIN store.prompts AS p USING (prompt)
               WHERE a.neuron = ? ORDER BY a.prompt""",
            self._known([neuron]),
        )

    def contexts(self, neuron: int) -> list[Context]:
        """The (at most ten) prompts with the neuron's highest maximum activations, highest first.

        Raises:
            NeuronRangeError: the SAE has no such neuron.
        """
        rows = self._frame(
            """SELECT c.prompt, p.text, p.tokens, c.positions, c.activations, c.max
               FROM store.contexts AS c JOIN store.prompts AS p USING (prompt) WHERE c.neuron = ? ORDER BY c.rank""",
            self._known([neuron]),
        )
        found = []
        for row in rows.itertuples(index=False):
            activations = np.zeros(len(row.tokens), dtype=np.float32)
            activations[row.positions] = row.activations
            found.append(Context(int(row.prompt), row.text, list(row.tokens), activations, float(row.max)))
        return found

    # ---- queries ----

    def _known(self, neurons: Sequence[int]) -> list[int]:
        for neuron in neurons:
            if not 0 <= neuron < self.d_sae:
                raise NeuronRangeError(neuron, self.d_sae)
        return [int(neuron) for neuron in neurons]

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        cursor = self._con.cursor()
        try:
            yield cursor
        except duckdb.Error as exc:
            raise StoreDamagedError(self.path, one_line(exc), self._mend) from exc
        finally:
            cursor.close()

    def _frame(self, sql: str, parameters: Sequence[Any] = ()) -> pd.DataFrame:
        with self._cursor() as con:
            return con.execute(sql, list(parameters)).df()

    def _columns(self, sql: str) -> dict[str, np.ndarray]:
        with self._cursor() as con:
            return dict(con.execute(sql).fetchnumpy())


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Inode, time and size, which change when the file is replaced; None without a file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
