"""A store's activations as plain columns that are mapped into memory: what a topic's scores are products of.

    store_root/<setup>/columns-<identity>.npy   int32 [4 active]: prompt, sum, max and n_tokens of `activations`,
                                                in its order; sum and max are the bits of a float32
    store_root/<setup>/columns.lock             held while a process makes that file

The table `activations` is ordered by neuron and prompt, so its columns are those of a compressed sparse row matrix
[d_sae n_prompts]; the rows' offsets follow from the table `neurons`. The store remains the truth. The file is a cache:
made when it is first needed, shared by every process that maps it, named by the identity of the store's file, so that
a store that was rebuilt never reads it, and made anew where it is not whole.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from core.errors import StoreBusyError
from core.files import exclusive_lock, file_identity, written_whole

if TYPE_CHECKING:
    import pyarrow as pa

Identity = tuple[int, int, int]  # of `file_identity`
Column = Literal["sum", "max", "n_tokens"]
Packed = Int32[np.ndarray, "4 active"]

_PREFIX, _LOCK = "columns-", "columns.lock"
_LOCK_TIMEOUT_S = 60.0  # 50 million rows take another process 10 s
_BLOCK_ROWS = 2**18  # of a product at a time: as float64 they stay in a processor's cache for every factor
_MOST_THREADS = 4  # beyond that memory is what limits a product


@dataclass(frozen=True)
class Columns:
    """The table `activations`: the rows of neuron i are `offsets[i]` to `offsets[i + 1]`."""

    offsets: Int64[np.ndarray, "d_sae+1"]
    prompt: Int32[np.ndarray, "active"]  # rising for each neuron
    sum: Float32[np.ndarray, "active"]
    max: Float32[np.ndarray, "active"]
    n_tokens: Int32[np.ndarray, "active"]
    n_prompts: int

    @property
    def prompts(self) -> Int64[np.ndarray, "d_sae"]:
        """On how many prompts each neuron is active."""
        return np.diff(self.offsets)

    def rows(self, neuron: int) -> slice:
        return slice(int(self.offsets[neuron]), int(self.offsets[neuron + 1]))

    def products(
        self, column: Column, factors: Float64[np.ndarray, "factor prompt"], *, power: Literal[1, 2] = 1
    ) -> Float64[np.ndarray, "factor d_sae"]:
        """Sums over every neuron's rows of column^power times the factor of the row's prompt, in double precision.

        Block by block of neurons, on several threads: SciPy's products run outside of Python's lock. Every factor has a
        product of its own, as SciPy's product with many columns takes twice the time of three with one.
        """
        found = np.empty((len(factors), len(self.offsets) - 1))
        blocks = _blocks(self.offsets)
        work = partial(self._fill, found, getattr(self, column), factors, power)
        threads = min(_MOST_THREADS, os.cpu_count() or 1, len(blocks))
        if threads < 2:
            work(blocks)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, [blocks[i::threads] for i in range(threads)]))
        return found

    def _fill(
        self,
        found: Float64[np.ndarray, "factor d_sae"],
        values: np.ndarray,
        factors: Float64[np.ndarray, "factor prompt"],
        power: int,
        blocks: Sequence[tuple[int, int]],
    ) -> None:
        from scipy.sparse import csr_array  # takes a tenth of a second

        # one buffer for all blocks: fresh memory for each would take as long as the conversion
        buffer = np.empty(max((self.offsets[last] - self.offsets[first] for first, last in blocks), default=0))
        for first, last in blocks:
            start, end = self.offsets[first], self.offsets[last]
            exact = buffer[: end - start]
            np.copyto(exact, values[start:end])
            if power == 2:
                np.square(exact, out=exact)
            block = csr_array((last - first, self.n_prompts))
            # given to the constructor, a slice that is less than half of an array would be copied
            block.data, block.indices = exact, self.prompt[start:end]
            block.indptr = (self.offsets[first : last + 1] - start).astype(np.int32)
            for products, factor in zip(found, factors, strict=True):
                products[first:last] = block @ factor


def _blocks(offsets: Int64[np.ndarray, "d_sae+1"]) -> list[tuple[int, int]]:
    """Ranges of neurons of about `_BLOCK_ROWS` rows together; more where a single neuron has more."""
    bounds = np.searchsorted(offsets, np.arange(0, offsets[-1] + _BLOCK_ROWS, _BLOCK_ROWS))
    bounds = np.unique(np.r_[0, bounds.clip(max=len(offsets) - 1), len(offsets) - 1])
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


# ---- the file ----


def open_columns(
    store: Path,
    identity: Identity | None,
    offsets: Int64[np.ndarray, "d_sae+1"],
    n_prompts: int,
    read: Callable[[], Packed],
) -> Columns:
    """The columns of a store, mapped from their file, which is made first if there is none that is whole.

    Where it cannot be written (a read-only folder, a full disk, a store that was just replaced) they stay in memory.

    Args:
        store: the store's file.
        identity: of the store's file when it was opened.
        read: reads the columns from the store itself, see `packed`.
    """
    file = store.with_name(f"{_PREFIX}{'-'.join(f'{part:x}' for part in identity or ())}.npy")
    rows = int(offsets[-1])
    table = _mapped(file, rows, n_prompts)
    if table is None:
        table = _made(store, identity, file, rows, n_prompts, read)
    prompt, sums, largest, n_tokens = table
    return Columns(offsets, prompt, sums.view(np.float32), largest.view(np.float32), n_tokens, n_prompts)


def _made(
    store: Path, identity: Identity | None, file: Path, rows: int, n_prompts: int, read: Callable[[], Packed]
) -> Packed:
    """Reads the columns and writes their file; several processes that want it wait for the first."""
    table = None
    with (
        suppress(OSError, StoreBusyError),
        exclusive_lock(store.with_name(_LOCK), busy="'{process}' writes it", timeout_s=_LOCK_TIMEOUT_S),
    ):
        if (table := _mapped(file, rows, n_prompts)) is None:
            table = read()
            if identity is not None and file_identity(store) == identity:
                with written_whole(file) as partial_file, partial_file.open("wb") as out:
                    out.write(_header(rows))
                    out.write(table.data)  # `tofile` does not tell of a disk that is full at its last bytes
                remove_columns(store.parent, but=file)
                mapped = _mapped(file, rows, n_prompts)  # which other processes share, as memory of one's own is not
                table = table if mapped is None else mapped
    return read() if table is None else table


def _header(rows: int) -> bytes:
    """What such a file starts with, byte for byte."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<i4", "fortran_order": False, "shape": (4, rows)})
    return out.getvalue()


def _mapped(file: Path, rows: int, n_prompts: int) -> Packed | None:
    """The columns of a file, read-only; None if there is none, or it is not whole or not of this store."""
    header = _header(rows)
    try:
        with file.open("rb") as content:
            if content.read(len(header)) != header or os.fstat(content.fileno()).st_size != len(header) + 16 * rows:
                return None
            table: np.ndarray = np.memmap(content, np.dtype("<i4"), "r", offset=len(header), shape=(4, rows))
    except (OSError, ValueError):  # ValueError: numpy maps no file without rows
        return None
    # SciPy reads where the numbers of prompts point to, without a look
    return np.asarray(table) if _within(table[0], n_prompts) else None


def _within(numbers: np.ndarray, limit: int) -> bool:
    return not len(numbers) or bool(numbers.min() >= 0 and numbers.max() < limit)


def remove_columns(folder: Path, but: Path | None = None) -> None:
    """Removes what earlier builds of a store left; a process that has mapped it keeps it."""
    for file in folder.glob(f"{_PREFIX}*"):
        if file != but:
            with suppress(OSError):
                file.unlink()


# ---- from the store ----


def packed(
    batches: Iterable["pa.RecordBatch"],
    offsets: Int64[np.ndarray, "d_sae+1"],
    n_prompts: int,
    damaged: Callable[[Iterable[str]], None],
) -> Packed:
    """The columns from rows of the table `activations`: neuron, prompt, sum, max and n_tokens, in its order.

    Takes 16 bytes for each row.

    Args:
        damaged: raises an error with the problem.
    """
    table = np.empty((4, int(offsets[-1])), dtype=np.int32)
    start = 0
    for batch in batches:
        damaged(_wrong_rows(batch, start, offsets, n_prompts))
        for column, values in zip(table, batch.columns[1:], strict=True):
            column[start : start + len(batch)] = values.to_numpy(zero_copy_only=False).view(np.int32)
        start += len(batch)
    rising = np.diff(table[0]) > 0
    rising[(offsets[1:-1] - 1)[(offsets[1:-1] > 0) & (offsets[1:-1] < start)]] = True  # where a neuron's rows start
    if start != table.shape[1] or not rising.all():
        damaged(["table 'activations' is not in the order of neurons and prompts"])
    return table


def _wrong_rows(
    batch: "pa.RecordBatch", start: int, offsets: Int64[np.ndarray, "d_sae+1"], n_prompts: int
) -> Iterator[str]:
    """What is wrong with some rows, of which the first is row `start` of the table."""
    if any(column.null_count for column in batch.columns):
        yield "there are activations that are no finite number"
    neuron, prompt = (batch.column(i).to_numpy() for i in range(2))
    if not (_within(neuron, len(offsets) - 1) and _within(prompt, n_prompts)):
        yield "there are activations of a prompt or neuron that there is not"
    row = np.arange(start, start + len(batch))
    if not ((offsets[neuron] <= row) & (row < offsets[neuron + 1])).all():
        yield "table 'activations' is not in the order of neurons and prompts"
