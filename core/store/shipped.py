"""A finished store as Parquet files, small enough to come with a checkout: `data/stores/NAME/`.

Sums and activations are rounded to the 10 bits of mantissa that a 16-bit float has, in 32 bits: their last bytes are 0,
and compress to nothing because Parquet's BYTE_STREAM_SPLIT puts the n-th bytes of all values together.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from core.catalog import DATA, Setup
from core.errors import StoreDamagedError, StoreWriteError
from core.files import written_whole
from core.store.reader import Store
from core.store.schema import TABLES, build_command, new_store, one_line, quoted, write_meta

SHIPPED = DATA / "stores"
META, RESULTS = "meta.json", "results.parquet"

_DROPPED_BITS = 13  # of a float32's mantissa of 23
_ROUNDED = {"activations": ("sum", "max"), "contexts": ("activations",), "embeddings": ("embedding",)}
_ORDER = {
    "prompts": "prompt",
    "embeddings": "prompt",
    "activations": "neuron, prompt",
    "neurons": "neuron",
    "contexts": "neuron, rank",
}
# where a neuron is active on one token of a prompt, its largest activation there is its sum, and is left out
_SELECTED = {"activations": 'neuron, prompt, "sum", CASE WHEN n_tokens > 1 THEN "max" END AS "max", n_tokens'}
_RESTORED = {"activations": 'neuron, prompt, "sum", coalesce("max", "sum"), n_tokens'}


def find_shipped(setup_name: str, fingerprint: str, folder: Path) -> Path | None:
    """The shipped store of a setup; None if there is none, or it was made of other weights, prompts or settings."""
    try:
        meta = json.loads((folder / setup_name / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return folder / setup_name if isinstance(meta, dict) and meta.get("fingerprint") == fingerprint else None


def write_shipped(store: Store, results: pd.DataFrame, folder: Path) -> None:
    """Writes a store, and the saved results of its setup, to a folder; replaces what was there.

    Args:
        results: columns what, saved_at and content, see `AppStore.contents`.

    Raises:
        StoreWriteError: the disk is full, or the folder cannot be written; what was there is intact.
    """
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for table in _ORDER:
            _write(store.table(table, _SELECTED.get(table, "*"), _ORDER[table]), table, partial / f"{table}.parquet")
        pq.write_table(pa.Table.from_pandas(results, preserve_index=False), partial / RESULTS, compression="zstd")
        with written_whole(partial / META) as file:
            # each assembly writes the setup's own fields anew, as they name places here; the hook name is the SAE's
            own = {field.name for field in fields(Setup)} - {"hook_name"}
            meta = {name: value for name, value in store.meta.items() if name not in own}
            file.write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as exc:
        raise StoreWriteError(folder, one_line(exc), "the store itself is intact") from exc
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(table: pa.Table, name: str, path: Path) -> None:
    """Writes one table in the encodings that make it smallest."""
    encodings: dict[str, str] = {}
    for column in _ROUNDED.get(name, ()):
        at = table.schema.get_field_index(column)
        table = table.set_column(at, column, _rounded(table.column(at)))
        nested = pa.types.is_list(table.schema.field(at).type)
        encodings[f"{column}.list.element" if nested else column] = "BYTE_STREAM_SPLIT"
    for field in table.schema:
        if pa.types.is_integer(field.type):
            encodings[field.name] = "DELTA_BINARY_PACKED"
    plain = [
        field.name for field in table.schema if field.name not in encodings and not pa.types.is_floating(field.type)
    ]
    pq.write_table(
        table, path, compression="zstd", compression_level=19, column_encoding=encodings, use_dictionary=plain
    )


def _rounded(column: pa.ChunkedArray) -> pa.Array:
    """Floats, or lists of floats, rounded to the nearest value with a short mantissa."""
    array = column.combine_chunks()
    if pa.types.is_list(array.type):
        return pa.ListArray.from_arrays(array.offsets, _rounded(pa.chunked_array([array.values])))
    bits = np.asarray(array.fill_null(0.0), dtype=np.float32).view(np.uint32)
    half = np.uint32(1 << (_DROPPED_BITS - 1))
    short = ((bits + half) >> _DROPPED_BITS << _DROPPED_BITS).view(np.float32)
    return pa.array(short, mask=np.asarray(array.is_null()))


def assemble_shipped(
    root: Path,
    setup_name: str,
    folder: Path,
    meta: Mapping[str, str],
    progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Assembles the store of a setup from its shipped tables; an older store stays until the new one is complete.

    Args:
        meta: the fields of the setup here, except for what the shipped store knows better.

    Raises:
        StoreWriteError: the disk is full or not writable; an older store is intact.
        StoreDamagedError: a shipped table cannot be read.
    """
    shipped: dict[str, str] = json.loads((folder / META).read_text(encoding="utf-8"))
    mend = f"{build_command(root, setup_name)} --no-resume"

    def unreadable(reason: str) -> StoreDamagedError | None:
        damaged = next((path for path in sorted(folder.glob("*.parquet")) if not _is_readable(path)), None)
        return None if damaged is None else StoreDamagedError(damaged, reason, mend)

    with new_store(
        root, setup_name, unreadable, intact=f"make room and go on: {build_command(root, setup_name)}"
    ) as con:
        for done, table in enumerate(_ORDER, start=1):
            file = quoted(folder / f"{table}.parquet")
            columns = ", ".join(f'"{name}"' for name in TABLES[table])
            con.execute(
                f"INSERT INTO {table} SELECT {_RESTORED.get(table, columns)} FROM read_parquet({file}) "
                f"ORDER BY {_ORDER[table]}"
            )
            progress(done / len(_ORDER))
        write_meta(con, {**meta, **shipped})
    return root / setup_name


def _is_readable(path: Path) -> bool:
    try:
        pq.read_table(path)
    except (OSError, pa.ArrowException):
        return False
    return True


def shipped_results(folder: Path) -> list[dict[str, Any]]:
    """The results of a shipped store: what, saved_at and content of each."""
    rows: list[dict[str, Any]] = pq.read_table(folder / RESULTS).to_pylist()
    return rows
