"""Activations kept on disk for jobs of a grid that train on the same ones, so that the language model runs once."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.files import written_whole
from core.training.autoencoder_config import AutoencoderConfig


class KeptChunks:
    """Chunks of one stream of activations, by number; the first `max_bytes` of them are kept on disk."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._free = folder, max_bytes

    def chunk(self, number: int, compute: Callable[[], Float[Tensor, "token d_in"]]) -> Float[Tensor, "token d_in"]:
        """The chunk from disk if it is there; otherwise computes it, and keeps it if there is room.

        Raises:
            OSError: the disk is full.
        """
        path = self._folder / f"{number}.safetensors"
        if path.exists():
            return load_file(path)["activations"]
        activations = compute()
        if activations.nbytes <= self._free:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                with written_whole(path) as partial:
                    save_file({"activations": activations.contiguous()}, partial)
            except (OSError, SafetensorError) as exc:
                raise OSError(f"no room for shared activations, {exc}; lower shared_activations_gb") from exc
            self._free -= activations.nbytes
        return activations


class SharedActivations:
    """Hands out `KeptChunks` to consecutive jobs that train on the same activations.

    Only one stream's activations are on disk at a time. None are reused from an earlier run, as its model may have been
    another.
    """

    def __init__(self, jobs: Iterable[AutoencoderConfig], folder: Path, max_bytes: int) -> None:
        """`jobs` are those still to be trained; `max_bytes` limits the disk space, and 0 shares nothing."""
        self._jobs_of_stream = Counter(job.activation_stream() for job in jobs)
        self._folder, self._max_bytes = folder, max_bytes
        self._stream: tuple[object, ...] | None = None
        self._chunks: KeptChunks | None = None

    def __enter__(self) -> Self:
        self._delete()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._delete()

    def _delete(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def of(self, job: AutoencoderConfig) -> KeptChunks | None:
        """The kept chunks of this job's activations; None if no other job needs them."""
        stream = job.activation_stream()
        if stream != self._stream:
            self._delete()
            shared = self._max_bytes > 0 and self._jobs_of_stream[stream] > 1
            self._chunks = KeptChunks(self._folder, self._max_bytes) if shared else None
            self._stream = stream
        return self._chunks
