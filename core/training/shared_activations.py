"""Activations kept on disk for jobs of a grid that train on the same texts, so that the language model runs once."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.files import written_whole
from core.training.autoencoder_config import AutoencoderConfig

Compute = Callable[[Sequence[str]], dict[str, Tensor]]  # activations [... d_in] at hook points, by one forward pass


class KeptChunks:
    """Chunks of activations at several hook points, by number; the first `max_bytes` of them are kept on disk."""

    def __init__(self, folder: Path, max_bytes: int, hook_names: Sequence[str]) -> None:
        self._folder, self._free, self._hook_names = folder, max_bytes, tuple(hook_names)

    def chunk(self, number: int, hook_name: str, compute: Compute) -> Float[Tensor, "... d_in"]:
        """The chunk from disk if it is there; otherwise computes it.

        Where there is room for the chunks of all hook points, they are computed together and kept.

        Raises:
            OSError: the disk is full.
        """
        path = self._path(number, hook_name)
        if path.exists():
            return load_file(path)["activations"]
        if self._free <= 0:
            return compute([hook_name])[hook_name]
        chunks = compute(self._hook_names)
        size = sum(activations.nbytes for activations in chunks.values())
        if size <= self._free:
            for name, activations in chunks.items():
                self._keep(self._path(number, name), activations)
        self._free = self._free - size if size <= self._free else 0
        return chunks[hook_name]

    def _path(self, number: int, hook_name: str) -> Path:
        return self._folder / hook_name / f"{number}.safetensors"

    def _keep(self, path: Path, activations: Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with written_whole(path) as partial:
                save_file({"activations": activations.contiguous()}, partial)
        except (OSError, SafetensorError) as exc:
            raise OSError(f"no room for shared activations, {exc}; lower shared_activations_gb") from exc


class SharedActivations:
    """Hands out `KeptChunks` to consecutive jobs that train on the same texts in the same order.

    Only one stream's activations are on disk at a time. None are reused from an earlier run, as its model may have been
    another.
    """

    def __init__(self, jobs: Iterable[AutoencoderConfig], folder: Path, max_bytes: int) -> None:
        """`jobs` are those still to be trained; `max_bytes` limits the disk space, and 0 shares nothing."""
        self._hooks_of_stream: dict[tuple[object, ...], list[str]] = defaultdict(list)
        for job in jobs:
            self._hooks_of_stream[job.token_stream()].append(job.hook_name)
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
        """The kept chunks of this job's texts; None if no other job needs them."""
        stream = job.token_stream()
        if stream != self._stream:
            self._delete()
            hooks = self._hooks_of_stream[stream]
            shared = self._max_bytes > 0 and len(hooks) > 1
            self._chunks = KeptChunks(self._folder, self._max_bytes, sorted(set(hooks))) if shared else None
            self._stream = stream
        return self._chunks
