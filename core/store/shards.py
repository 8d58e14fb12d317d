"""Parquet shards of a build: finished pieces, several for each chunk of prompts.

A shard is written under a temporary name and renamed, so a shard that exists is complete. The shards' folder is named
by the build's fingerprint, so shards of different configurations never mix.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from core.files import written_whole
from core.text.prompts import Prompt

if TYPE_CHECKING:
    from core.store.batch import ActivationBatch

Kind = Literal["tokens", "prompts", "embeddings"]

_STRINGS = pa.list_(pa.string())
_TOKENS = pa.schema({"neuron": pa.int32(), "prompt": pa.int32(), "position": pa.int32(), "activation": pa.float32()})
_PROMPTS = pa.schema(
    {
        "prompt": pa.int32(),
        "text": pa.string(),
        "task": pa.string(),
        "grp": pa.string(),
        "n_tokens": pa.int32(),
        "total": pa.float64(),
        "tokens": _STRINGS,
    }
)
_LENS = pa.schema({"neuron": pa.int32(), "promoted": _STRINGS, "suppressed": _STRINGS})


class Parts:
    """The shards of one build, in `folder/<fingerprint>/`."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / fingerprint

    def prepare(self, *, resume: bool) -> None:
        """Creates the folder; deletes the shards of other fingerprints and, without `resume`, those of this one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for other in self.folder.parent.iterdir():
            if other != self.folder or not resume:
                shutil.rmtree(other)
        self.folder.mkdir(exist_ok=True)

    def discard(self) -> None:
        """Deletes all shards, of this and of other fingerprints."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def shard(self, chunk: int, kind: Kind) -> Path:
        return self.folder / f"{chunk:06}-{kind}.parquet"

    @property
    def lens(self) -> Path:
        return self.folder / "lens.parquet"

    def has_activations(self, chunk: int) -> bool:
        return self.shard(chunk, "prompts").exists() and self.shard(chunk, "tokens").exists()

    def has_embeddings(self, chunk: int) -> bool:
        return self.shard(chunk, "embeddings").exists()

    def unreadable(self) -> Path | None:
        """The first shard that cannot be read, if there is one."""
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                pq.read_table(path)
            except (OSError, pa.ArrowException):
                return path
        return None

    def write_activations(
        self, chunk: int, due: Sequence[int], reference: Sequence[Prompt], batches: Sequence["ActivationBatch"]
    ) -> None:
        """Writes the prompts of a chunk and their active (token, neuron) pairs.

        Activations are stored as magnitudes: only AbsTopK has negative ones, and the weights in g (Topic Alignment
        paper, Eq. 1) must not be negative.

        Args:
            due: ids of the chunk's prompts, all of which `batches` must hold.
            reference: the whole reference set, indexed by id.
        """
        prompt, position, neuron, activation, ids, n_tokens = (
            np.concatenate([getattr(batch, name) for batch in batches])
            for name in ("prompt", "position", "neuron", "activation", "prompts", "n_tokens")
        )
        if sorted(ids.tolist()) != sorted(due):
            raise ValueError(f"chunk {chunk} is due prompts {sorted(due)}, not {sorted(ids.tolist())}")
        magnitude = np.abs(activation)
        total = np.bincount(prompt, weights=magnitude, minlength=int(ids.max()) + 1)[ids]
        texts = [reference[i] for i in ids]
        self._write(self.shard(chunk, "tokens"), _TOKENS, [neuron, prompt, position, magnitude])
        self._write(
            self.shard(chunk, "prompts"),
            _PROMPTS,
            [
                ids,
                [entry.text for entry in texts],
                [entry.task for entry in texts],
                [entry.group for entry in texts],
                n_tokens,
                total,
                [tokens for batch in batches for tokens in batch.tokens],
            ],
        )

    def write_embeddings(
        self, chunk: int, ids: Sequence[int], embeddings: Float[np.ndarray, "prompt d_embedding"]
    ) -> None:
        """Writes the unit-normalised embeddings of a chunk's prompts."""
        rows = pa.FixedSizeListArray.from_arrays(
            np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1), embeddings.shape[1]
        )
        schema = pa.schema({"prompt": pa.int32(), "embedding": rows.type})
        self._write(self.shard(chunk, "embeddings"), schema, [list(ids), rows])

    def write_lens(self, promoted: Sequence[Sequence[str]], suppressed: Sequence[Sequence[str]]) -> None:
        """Writes the tokens that each neuron's decoder row promotes and suppresses; one entry per neuron."""
        self._write(self.lens, _LENS, [np.arange(len(promoted)), promoted, suppressed])

    @staticmethod
    def _write(path: Path, schema: pa.Schema, columns: Sequence[object]) -> None:
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
        with written_whole(path) as partial:
            pq.write_table(pa.Table.from_arrays(arrays, schema=schema), partial, compression="zstd")
