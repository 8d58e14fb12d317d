"""The store of a setup, read-only: prompts, embeddings, activations, neurons, contexts.

SQL is written only here, in `schema` (assembly) and in `results.app_store` (what users of the app save).
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import duckdb
import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Float64, Int32, Int64

from core.errors import NeuronRangeError, StoreDamagedError, StoreNotBuiltError, StoreSchemaError
from core.files import file_identity
from core.settings import ScoreSettings, Summary
from core.store import health
from core.store.columns import open_columns, packed
from core.store.schema import SCHEMA_VERSION, build_command, connect, one_line, quoted, store_path
from core.store.sums import Sums

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_array

_ROWS_A_BATCH = 2**20  # of `activations`, when its columns are made
_NOT_FINITE = "there are activations that are no finite number"


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
        self._identity = file_identity(path)
        self._made_sums: Sums | None = None
        self._making_sums = threading.Lock()
        # The file is attached to a private in-memory database: direct connections of one process to one path share an
        # instance, and would keep showing the old file after a rebuild.
        self._con = connect(":memory:")

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
                con.execute(f"ATTACH {quoted(path)} AS store (TYPE DUCKDB, READ_ONLY)")
            store._check_opened()
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
        return file_identity(self.path) != self._identity

    # ---- checks ----

    def _check_opened(self) -> None:
        """Raises StoreSchemaError for another version, and StoreDamagedError for what `health` finds quickly."""
        # a table that is missing or has other columns may be of another version: what `meta` says of it comes first
        problems = list(health.wrong_columns(self._frame))
        if not any("'meta'" in problem for problem in problems):
            version = self.meta.get("schema_version", "unknown")
            if version != str(SCHEMA_VERSION):
                raise StoreSchemaError(self.path, version, SCHEMA_VERSION, self._mend)
        self._demand(problems)
        self._demand(health.wrong_size(self._frame, self.path.stat().st_size))
        self._demand(health.wrong_counts(self._frame, self.meta))

    def check(self) -> None:
        """Reads the whole file and looks at every number.

        Raises:
            StoreDamagedError: a block is corrupt, or there are numbers that are none.
        """
        self._demand(health.wrong_numbers(self._frame, self.meta))

    def _demand(self, problems: Iterable[str]) -> None:
        for problem in problems:
            raise StoreDamagedError(self.path, problem, self._mend)

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
        return health.Meta(zip(rows["key"], rows["value"], strict=True), self._demand)

    @property
    def d_sae(self) -> int:
        return int(self.meta["d_sae"])

    @property
    def n_prompts(self) -> int:
        return int(self.meta["n_prompts"])

    @cached_property
    def _embeddings(self) -> Float32[np.ndarray, "prompt d_embedding"]:
        rows = self._columns("SELECT embedding FROM store.embeddings ORDER BY prompt")["embedding"]
        try:
            embeddings: np.ndarray = np.stack(rows)  # type: ignore[call-overload]
        except ValueError:
            self._demand(["embeddings of several lengths"])
        if not np.isfinite(embeddings).all():
            self._demand(["there are embeddings that are no finite number"])
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

    @property
    def _sums(self) -> Sums:
        """Sums over the activations, whose columns are mapped or read once, then kept; see `core.store.columns`."""
        with self._making_sums:
            if self._made_sums is None:
                counts = self._columns("SELECT prompts FROM store.neurons ORDER BY neuron")["prompts"]
                if np.ma.is_masked(counts) or counts.min() < 0:
                    self._demand(["table 'neurons' has numbers of prompts that are none"])
                offsets = np.r_[0, np.cumsum(counts, dtype=np.int64)]
                read = partial(self._packed, offsets)
                columns = open_columns(self.path, self._identity, offsets, self.n_prompts, read)
                self._made_sums = Sums(columns, self._prompt_columns, partial(self._demand, [_NOT_FINITE]))
            return self._made_sums

    def _packed(self, offsets: Int64[np.ndarray, "d_sae+1"]) -> Int32[np.ndarray, "4 active"]:
        with self._cursor() as con:
            rows = con.sql('SELECT neuron, prompt, "sum", "max", n_tokens FROM store.activations')
            return packed(rows.to_arrow_reader(_ROWS_A_BATCH), offsets, self.n_prompts, self._demand)

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
        return self._sums.of_topic(distances, settings or ScoreSettings())

    def weight_squares(self, summary: Summary) -> Float64[np.ndarray, "d_sae"]:
        """Sum over prompts of w^2, w being a neuron's share of its summed summary on a prompt; read once, then kept.

        Its reciprocal is the number of prompts that g is a mean of, were all weighted alike. NaN for a neuron that
        never fires.
        """
        return self._sums.squares(summary)

    def density(self) -> Float64[np.ndarray, "d_sae"]:
        """Share of the reference prompts' ordinary tokens on which each neuron is active."""
        tokens = self._columns("SELECT tokens FROM store.neurons ORDER BY neuron")["tokens"]
        return np.asarray(tokens, dtype=np.float64) / max(1, int(self._prompt_columns["n_tokens"].sum()))

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

        For experiments over many sets of prompts; `neuron_sums` scores a topic on the whole reference set. Takes 24
        bytes for each stored activation while it is made, 12 afterwards.
        """
        return self._sums.matrix(summary)

    # ---- one neuron ----

    def neuron_rows(self, neuron: int) -> pd.DataFrame:
        """The reference prompts on which a neuron is active.

        Returns:
            Columns prompt, sum, max, n_tokens (on which the neuron is active), text, task, group, total (activation
            of all neurons on the prompt), prompt_tokens (all its ordinary tokens).

        Raises:
            NeuronRangeError: the SAE has no such neuron.
        """
        (number,), columns = self._known([neuron]), self._sums.columns
        rows = columns.rows(number)
        mine = {name: np.array(getattr(columns, name)[rows]) for name in ("prompt", "sum", "max", "n_tokens")}
        prompts = self._prompt_frame.iloc[mine["prompt"]].reset_index(drop=True)
        return pd.concat([pd.DataFrame(mine), prompts], axis=1)

    @cached_property
    def _prompt_frame(self) -> pd.DataFrame:
        """What the rows of a neuron say of their prompts; kept, as a busy neuron has most of them."""
        return self._frame(
            'SELECT text, task, grp AS "group", total, n_tokens AS prompt_tokens FROM store.prompts ORDER BY prompt'
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
        except (duckdb.Error, UnicodeError) as exc:  # UnicodeError: text that is none
            raise StoreDamagedError(self.path, one_line(exc), self._mend) from exc
        finally:
            cursor.close()

    def _frame(self, sql: str, parameters: Sequence[Any] = ()) -> pd.DataFrame:
        with self._cursor() as con:
            return con.execute(sql, list(parameters)).df()

    def _columns(self, sql: str) -> dict[str, np.ndarray]:
        with self._cursor() as con:
            return dict(con.execute(sql).fetchnumpy())
