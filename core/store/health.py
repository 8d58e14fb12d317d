"""Whether a store holds what it says: version, tables, columns and counts when it is opened, numbers on request.

Every problem is told in a few words, for `StoreDamagedError` to name the file and the command that repairs it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from core.store.schema import TABLES, TOP_CONTEXTS

if TYPE_CHECKING:
    import pandas as pd

Query = Callable[[str], "pd.DataFrame"]

HEADER_BYTES = 3 * 4_096  # at the start of a DuckDB file
_MOST_NEURONS = 2**24  # the widest published SAE has 16 million
# rows that an assembly makes equal in number, as SQL
_EQUAL_COUNTS = {
    "prompts": "(SELECT count(*) FROM store.prompts)",
    "embeddings": "(SELECT count(*) FROM store.embeddings)",
    "neurons": "(SELECT count(*) FROM store.neurons)",
    "activations": "(SELECT count(*) FROM store.activations)",
    "activations_due": "(SELECT coalesce(sum(prompts), 0) FROM store.neurons)",
    "contexts": "(SELECT count(*) FROM store.contexts)",
    "contexts_due": f"(SELECT coalesce(sum(least(prompts, {TOP_CONTEXTS})), 0) FROM store.neurons)",
}
_WRONG_NUMBERS = {
    "activations that are no finite number": """SELECT count(*) AS n FROM store.activations
        WHERE "sum" IS NULL OR "max" IS NULL OR NOT isfinite("sum") OR NOT isfinite("max")""",
    "activations of a prompt or neuron that there is not": """SELECT count(*) AS n FROM store.activations
        WHERE prompt NOT BETWEEN 0 AND {n_prompts} - 1 OR neuron NOT BETWEEN 0 AND {d_sae} - 1""",
    "embeddings that are no finite numbers": """SELECT count(*) AS n FROM store.embeddings
        WHERE embedding IS NULL OR len(embedding) = 0 OR NOT isfinite(list_sum(embedding))""",
    "embeddings of another length": """SELECT count(*) AS n FROM store.embeddings
        WHERE len(embedding) <> (SELECT max(len(embedding)) FROM store.embeddings)""",
    "neurons whose statistics are no finite number": """SELECT count(*) AS n FROM store.neurons
        WHERE "mean" IS NULL OR "max" IS NULL OR NOT isfinite("mean") OR NOT isfinite("max")""",
    "prompts whose activation is no finite number": """SELECT count(*) AS n FROM store.prompts
        WHERE total IS NULL OR NOT isfinite(total)""",
}


class Meta(dict[str, str]):
    """The table `meta`; an entry that is missing is damage, too."""

    def __init__(self, entries: Iterable[tuple[str, str]], damaged: Callable[[Iterable[str]], None]) -> None:
        super().__init__(entries)
        self._damaged = damaged  # raises an error with the problem

    def __missing__(self, key: str) -> str:
        self._damaged([f"table 'meta' has no {key!r}"])
        raise KeyError(key)


def wrong_columns(query: Query) -> Iterator[str]:
    """Tables and columns that are missing, or of another type."""
    found = query("SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE database_name = 'store'")
    types = {(table, column): kind for table, column, kind in found.itertuples(index=False, name=None)}
    for table, columns in TABLES.items():
        missing = [name for name in columns if (table, name) not in types]
        if len(missing) == len(columns):
            yield f"no table '{table}'"
        elif missing:
            yield f"table '{table}' has no column '{missing[0]}'"
        for name in columns.keys() - missing:
            if (kind := types[table, name]) != columns[name]:
                yield f"column '{name}' of table '{table}' is of type {kind}, not {columns[name]}"


def wrong_size(query: Query, there: int) -> Iterator[str]:
    """A truncated file, which DuckDB notices only on reading past the end; `there` is its length in bytes."""
    sizes = query("SELECT block_size, total_blocks FROM pragma_database_size() WHERE database_name = 'store'")
    due = HEADER_BYTES + int(sizes.block_size[0]) * int(sizes.total_blocks[0])
    if there < due:
        yield f"cut short, {there:,} of {due:,} bytes"


def wrong_counts(query: Query, meta: Mapping[str, str]) -> Iterator[str]:
    """Counts of the table `meta` that cannot be, and rows that are missing or too many."""
    due: dict[str, int] = {}
    for key in ("n_prompts", "d_sae"):
        text = meta.get(key, "")
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= _MOST_NEURONS):
            yield f"{key} in table 'meta' is a whole number from 1 to {_MOST_NEURONS}, not {text[:40]!r}"
            return
        due[key] = int(text)
    rows = query(f"SELECT {', '.join(f'{sql} AS {name}' for name, sql in _EQUAL_COUNTS.items())}").iloc[0]
    for table, expected in (
        ("prompts", due["n_prompts"]),
        ("embeddings", due["n_prompts"]),
        ("neurons", due["d_sae"]),
        ("activations", int(rows["activations_due"])),
        ("contexts", int(rows["contexts_due"])),
    ):
        if (n := int(rows[table])) != expected:
            yield f"table '{table}' has {n:,} rows, not {expected:,}"


def wrong_numbers(query: Query, meta: Mapping[str, str]) -> Iterator[str]:
    """Numbers that are no numbers. Reads every block of the file, so that DuckDB verifies its checksums."""
    for table in TABLES:
        query(f"SELECT bit_xor(hash(t)) FROM store.{table} AS t")
    for what, sql in _WRONG_NUMBERS.items():
        if n := int(query(sql.format(n_prompts=meta["n_prompts"], d_sae=meta["d_sae"]))["n"][0]):
            yield f"{n:,} {what}"
