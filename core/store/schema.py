"""What a store holds, and how it is assembled from the shards of a build.

    store_root/<setup>/store.duckdb     the store; beside it what `columns` keeps of it
    store_root/<setup>/parts/           shards of a build under way
    store_root/<setup>/build.lock       held while a build of the setup runs

The store is written under a temporary name and renamed when complete.
"""

import glob
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb

from core.errors import StoreDamagedError, StoreWriteError
from core.files import written_whole
from core.settings import store_root
from core.store.columns import remove_columns
from core.store.shards import Parts

SCHEMA_VERSION = 1
TOP_TOKENS = 12
TOP_CONTEXTS = 10
HISTOGRAM_BINS = 20

_MEMORY_LIMIT = "1GB"  # for an assembly; what does not fit is spilled to a folder beside the store
_MAX_THREADS = 8  # each needs part of the memory

TABLES: dict[str, dict[str, str]] = {
    "meta": {"key": "VARCHAR", "value": "VARCHAR"},
    "prompts": {
        "prompt": "INTEGER",
        "text": "VARCHAR",
        "task": "VARCHAR",
        "grp": "VARCHAR",
        "n_tokens": "INTEGER",  # ordinary tokens; special ones are left out here and in every table
        "total": "DOUBLE",  # activation summed over all neurons and ordinary tokens
        "tokens": "VARCHAR[]",
    },
    "embeddings": {"prompt": "INTEGER", "embedding": "FLOAT[]"},
    # one row per (neuron, prompt) with activity, in that order: scoring is one scan, one neuron's rows lie together
    "activations": {"neuron": "INTEGER", "prompt": "INTEGER", "sum": "FLOAT", "max": "FLOAT", "n_tokens": "INTEGER"},
    # one row for every neuron, dead ones included; mean is over the tokens on which the neuron is active
    "neurons": {
        "neuron": "INTEGER",
        "prompts": "INTEGER",
        "tokens": "BIGINT",
        "mean": "FLOAT",
        "max": "FLOAT",
        "top_tokens": "VARCHAR[]",  # by summed activation
        "histogram": "INTEGER[]",  # number of tokens in equal bins of activation from 0 to max
        "promoted": "VARCHAR[]",  # by the decoder row through the unembedding (logit lens)
        "suppressed": "VARCHAR[]",
    },
    # the prompts with a neuron's highest max; positions and activations of its active tokens
    "contexts": {
        "neuron": "INTEGER",
        "rank": "INTEGER",
        "prompt": "INTEGER",
        "max": "FLOAT",
        "positions": "INTEGER[]",
        "activations": "FLOAT[]",
    },
}

# Pairs of integers are packed into one BIGINT: grouping and sorting takes a third of the time of two columns.
# `token_rows`, `prompt_rows`, `embedding_rows` and `lens` are views of the shards.
_STEPS = (
    "INSERT INTO prompts SELECT prompt, text, task, grp, n_tokens, total, tokens FROM prompt_rows ORDER BY prompt",
    "INSERT INTO embeddings SELECT prompt, embedding FROM embedding_rows ORDER BY prompt",
    """INSERT INTO activations
       SELECT (pair >> 32)::INTEGER, (pair & 4294967295)::INTEGER, "sum", "max", n_tokens
       FROM (SELECT (neuron::BIGINT << 32) + prompt AS pair, sum(activation::DOUBLE)::FLOAT AS "sum",
                    max(activation) AS "max", count(*)::INTEGER AS n_tokens
             FROM token_rows GROUP BY pair)
       ORDER BY pair""",
    """CREATE TEMP TABLE stats AS
       SELECT neuron, count(*) AS prompts, sum(n_tokens) AS tokens, max("max") AS "max",
              sum("sum"::DOUBLE) / sum(n_tokens) AS mean
       FROM activations GROUP BY neuron""",
    """CREATE TEMP TABLE words AS
       SELECT (prompt::BIGINT << 32) + position AS place, dense_rank() OVER (ORDER BY token) AS word, token
       FROM (SELECT prompt, generate_subscripts(tokens, 1) - 1 AS position, unnest(tokens) AS token FROM prompts)""",
    # the sum is rounded to FLOAT, so that equal sums tie whatever the order of addition
    f"""CREATE TEMP TABLE top_words AS
       SELECT (pair >> 32)::INTEGER AS neuron,
              max({{'mass': mass, 'first': -(pair & 4294967295)}}, {TOP_TOKENS}) AS top
       FROM (SELECT (neuron::BIGINT << 32) + word AS pair, sum(activation::DOUBLE)::FLOAT AS mass
             FROM token_rows JOIN words ON place = (prompt::BIGINT << 32) + position GROUP BY pair)
       GROUP BY neuron""",
    """CREATE TEMP TABLE top_tokens AS
       SELECT neuron, list(token ORDER BY rank) AS top_tokens
       FROM (SELECT neuron, generate_subscripts(top, 1) AS rank, -unnest(top).first AS word FROM top_words)
       JOIN (SELECT DISTINCT word, token FROM words) USING (word)
       GROUP BY neuron""",
    f"""CREATE TEMP TABLE histograms AS
       SELECT neuron, list(coalesce(n, 0) ORDER BY bin) AS histogram
       FROM (SELECT neuron, bin FROM stats, range({HISTOGRAM_BINS}) AS bins(bin))
       LEFT JOIN (SELECT neuron, count(*)::INTEGER AS n, least({HISTOGRAM_BINS - 1},
                         floor(activation::DOUBLE / stats.max * {HISTOGRAM_BINS})::BIGINT) AS bin
                  FROM token_rows JOIN stats USING (neuron) GROUP BY ALL) USING (neuron, bin)
       GROUP BY neuron""",
    f"""INSERT INTO neurons
       SELECT neuron, coalesce(prompts, 0), coalesce(tokens, 0), coalesce(mean, 0), coalesce("max", 0),
              coalesce(top_tokens, []), coalesce(histogram, list_resize([0], {HISTOGRAM_BINS}, 0)),
              promoted, suppressed
       FROM lens LEFT JOIN stats USING (neuron) LEFT JOIN top_tokens USING (neuron) LEFT JOIN histograms USING (neuron)
       ORDER BY neuron""",
    f"""INSERT INTO contexts
       SELECT neuron, rank, prompt, max(activation), list(position ORDER BY position),
              list(activation ORDER BY position)
       FROM token_rows
       JOIN (SELECT neuron, generate_subscripts(top, 1) AS rank, -unnest(top).first AS prompt
             FROM (SELECT neuron, max({{'max': "max", 'first': -prompt}}, {TOP_CONTEXTS}) AS top
                   FROM activations GROUP BY neuron)) USING (neuron, prompt)
       GROUP BY neuron, rank, prompt ORDER BY neuron, rank""",
)


def store_path(root: Path, setup_name: str) -> Path:
    return root / setup_name / "store.duckdb"


def build_command(root: Path, setup_name: str) -> str:
    """The command that builds or repairs the store, for error messages."""
    place = [] if root == store_root() else ["--store", str(root)]
    return shlex.join(["python", "-m", "core", "build", setup_name, *place])


def quoted(path: Path | str) -> str:
    """A path as a quoted SQL string, for statements that take no parameters."""
    return "'" + str(path).replace("'", "''") + "'"


def one_line(exc: Exception) -> str:
    """The first line of an error's message."""
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__


def connect(path: Path | str, **config: str | bool | int | float | list[str]) -> duckdb.DuckDBPyConnection:
    """Opens DuckDB so that no file, whatever it pretends to be, makes it fetch or load an extension."""
    closed = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    return duckdb.connect(path, config={**closed, **config})


def _open(path: Path, spill: Path) -> duckdb.DuckDBPyConnection:
    con = connect(
        path,
        memory_limit=_MEMORY_LIMIT,
        threads=min(_MAX_THREADS, os.cpu_count() or 1),
        temp_directory=str(spill),
        preserve_insertion_order=False,  # rows without ORDER BY may come in any order: large steps stream
    )
    for table, columns in TABLES.items():
        definitions = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        con.execute(f"CREATE TABLE {table} ({definitions})")
    return con


def _add_views(con: duckdb.DuckDBPyConnection, parts: Parts) -> None:
    shards = {"token_rows": "*-tokens", "prompt_rows": "*-prompts", "embedding_rows": "*-embeddings", "lens": "lens"}
    for view, pattern in shards.items():
        files = f"{glob.escape(str(parts.folder))}/{pattern}.parquet"
        con.execute(f"CREATE TEMP VIEW {view} AS SELECT * FROM read_parquet({quoted(files)})")


def write_meta(con: duckdb.DuckDBPyConnection, meta: Mapping[str, str]) -> None:
    """Fills the table `meta`; adds schema_version, n_prompts and d_sae."""
    counts = con.execute("SELECT (SELECT count(*) FROM prompts), (SELECT count(*) FROM neurons)").fetchall()
    n_prompts, d_sae = counts[0]
    entries = {**meta, "schema_version": str(SCHEMA_VERSION), "n_prompts": str(n_prompts), "d_sae": str(d_sae)}
    con.executemany("INSERT INTO meta VALUES (?, ?)", sorted(entries.items()))


@contextmanager
def new_store(
    root: Path, setup_name: str, unreadable: Callable[[str], StoreDamagedError | None], intact: str
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a new store with empty tables, which replaces an older store when the context exits.

    Args:
        unreadable: the error that names a damaged input, given DuckDB's reason; None if all can be read.
        intact: what a full disk leaves as it is, and how to go on.

    Raises:
        StoreWriteError: the disk is full or not writable; an older store is intact.
        StoreDamagedError: the error of `unreadable`.
    """
    path = store_path(root, setup_name)
    spill, log = path.with_name("spill"), path.with_name(path.name + ".partial.wal")
    try:
        with written_whole(path) as partial:
            for leftover in (partial, log):  # left by a build that was killed
                leftover.unlink(missing_ok=True)
            con = _open(partial, spill)
            try:
                yield con
                con.execute("CHECKPOINT")
            finally:
                con.close()
        remove_columns(path.parent)  # they follow from the older store
    except (OSError, duckdb.Error) as exc:
        # DuckDB has no separate exception for a full disk: look for an unreadable input first
        if (damaged := unreadable(one_line(exc))) is not None:
            raise damaged from exc
        raise StoreWriteError(path, one_line(exc), intact) from exc
    finally:
        shutil.rmtree(spill, ignore_errors=True)
        log.unlink(missing_ok=True)


def assemble(
    root: Path,
    setup_name: str,
    parts: Parts,
    meta: Mapping[str, str],
    *,
    n_prompts: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Writes the store from the shards, in bounded memory; an older store stays until the new one is complete.

    Args:
        meta: entries of the table `meta`, to which those of `write_meta` and seconds_assemble are added.

    Raises:
        StoreWriteError: the disk is full or not writable; shards and an older store are intact.
        StoreDamagedError: a shard cannot be read.
    """
    mend = build_command(root, setup_name)

    def unreadable(reason: str) -> StoreDamagedError | None:
        shard = parts.unreadable()
        return None if shard is None else StoreDamagedError(shard, reason, f"{mend} --no-resume")

    intact = f"all {n_prompts} prompts' activations are kept; make room and go on: {mend}"
    with new_store(root, setup_name, unreadable, intact) as con:
        start = time.perf_counter()
        _add_views(con, parts)
        for done, step in enumerate(_STEPS, start=1):
            con.execute(step)
            progress(done / len(_STEPS))
        write_meta(con, {**meta, "seconds_assemble": f"{time.perf_counter() - start:.3f}"})
    return store_path(root, setup_name)
