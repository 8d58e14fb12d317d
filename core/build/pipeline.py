"""Builds a store: runs the reference prompts through the model and the SAE, and through the embedding model.

Each finished chunk of prompts is kept as shards, so a build that was killed can resume.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from core.build.fingerprint import CHUNK_PROMPTS, fingerprint, reference_digest
from core.build.through_models import ModelPipeline, Pipeline, prepare_model
from core.catalog import Setup
from core.errors import AutoencoderError, StoreError, StoreWriteError
from core.files import exclusive_lock
from core.progress import Progress
from core.results.app_store import AppStore
from core.store.batch import ActivationBatch
from core.store.reader import Store
from core.store.schema import assemble, build_command, one_line, store_path
from core.store.shards import Parts
from core.store.shipped import SHIPPED, assemble_shipped, find_shipped, shipped_results
from core.text.prompts import Prompt, reference_prompts

_VERSIONS = ("torch", "transformers", "sae-lens", "sentence-transformers", "duckdb")

Stage = Literal["activations", "embeddings"]


class Spread(Protocol):
    """Lets other processes write the missing shards; see `core.build.on_ray`."""

    def __call__(self, work: "Build", stage: "Stage", missing: Sequence[int]) -> dict[str, str]:
        """Writes the shards of the chunks `missing` for a stage; returns the pipeline's `describe()`."""


def _is_current(root: Path, setup: Setup, due: str) -> bool:
    """Whether an intact store with that fingerprint exists."""
    try:
        with Store.open(root, setup.name) as store:
            if store.meta.get("fingerprint") != due:
                return False
            store.check()
            return True
    except StoreError:
        return False


# ---- the build ----


class Build:
    """One run of a build: its chunks of prompts, the shards still missing, and the seconds that each stage took."""

    def __init__(self, setup: Setup, root: Path, prompts: Sequence[Prompt], chunk_prompts: int, progress: Progress):
        self.setup, self.root, self.prompts, self.progress = setup, root, prompts, progress
        self.folder = store_path(root, setup.name).parent
        self.fingerprint = fingerprint(setup, prompts, chunk_prompts)
        self.parts = Parts(self.folder / "parts", self.fingerprint)
        # prompts of similar length share a batch; the longest come first, so that a lack of memory shows at once
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].text), i))
        self.chunks = [order[start : start + chunk_prompts] for start in range(0, len(order), chunk_prompts)]
        self.seconds: dict[str, float] = {}
        self._characters_done = 0

    def run(self, pipeline: Pipeline, spread: Spread | None) -> None:
        """Writes the missing shards and assembles the store."""
        resumed = self._kept()
        description = self._run_activations(pipeline, spread)
        self._run_embeddings(pipeline, spread)
        with self._stage("assemble"):
            assemble(
                self.root,
                self.setup.name,
                self.parts,
                {**self._meta(), **description, "chunks_resumed": str(resumed)},
                n_prompts=len(self.prompts),
                progress=lambda share: self.progress("assemble", share),
            )

    def take(self, shipped: Path) -> None:
        """Assembles the store from the one that comes with this checkout."""
        own = {name: str(value) for name, value in asdict(self.setup).items()}
        with self._stage("assemble"):
            assemble_shipped(
                self.root, self.setup.name, shipped, own, progress=lambda share: self.progress("assemble", share)
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns an OSError into a StoreWriteError that says what is intact."""
        try:
            yield
        except OSError as exc:
            mend = build_command(self.root, self.setup.name)
            intact = f"{self._kept()} of {len(self.chunks)} chunks are kept; make room and go on: {mend}"
            raise StoreWriteError(self.folder, one_line(exc), intact) from exc

    def _run_activations(self, pipeline: Pipeline, spread: Spread | None) -> dict[str, str]:
        missing = self.missing("activations")
        if missing and spread is not None:
            with self._stage("activations", missing):
                return spread(self, "activations", missing)
        if missing or not self.parts.lens.exists():
            with self._stage("load"):
                pipeline.load()
        with self._stage("activations", missing):
            self.write_lens(pipeline)
            for chunk in missing:
                self.write_activations(pipeline, chunk)
        return pipeline.describe()

    def _run_embeddings(self, pipeline: Pipeline, spread: Spread | None) -> None:
        missing = self.missing("embeddings")
        with self._stage("embeddings", missing):
            if missing and spread is not None:
                spread(self, "embeddings", missing)
                return
            for chunk in missing:
                self.write_embeddings(pipeline, chunk)

    def write_lens(self, pipeline: Pipeline) -> None:
        """Writes the logit lens of every neuron, unless it exists already."""
        if not self.parts.lens.exists():
            promoted, suppressed = pipeline.lens()
            with self.writing():
                self.parts.write_lens(promoted, suppressed)

    def write_activations(self, pipeline: Pipeline, chunk: int) -> None:
        """Runs one chunk of prompts through the model and the SAE, and writes its shards."""
        ids, batches = self.chunks[chunk], []
        for batch in pipeline.activations([self.prompts[i].text for i in ids], ids):
            self._check_finite(batch)
            batches.append(batch)
            self._advance("activations", batch.prompts.tolist())
        with self.writing():
            self.parts.write_activations(chunk, ids, self.prompts, batches)

    def write_embeddings(self, pipeline: Pipeline, chunk: int) -> None:
        """Runs one chunk of prompts through the embedding model, and writes its shard."""
        ids = self.chunks[chunk]
        embeddings = pipeline.embed([self.prompts[i].text for i in ids])
        self._advance("embeddings", ids)
        with self.writing():
            self.parts.write_embeddings(chunk, ids, embeddings)

    def missing(self, stage: Stage) -> list[int]:
        """Chunks that have no shards of that stage yet."""
        has = self.parts.has_activations if stage == "activations" else self.parts.has_embeddings
        return [chunk for chunk in range(len(self.chunks)) if not has(chunk)]

    def advance_to(self, stage: Stage, missing: Sequence[int]) -> None:
        """Reports the progress of a stage of which only the chunks `missing` remain."""
        left = sum(self._characters(self.chunks[chunk]) for chunk in missing)
        self.progress(stage, 1 - left / self._characters(range(len(self.prompts))))

    def _kept(self) -> int:
        """Number of chunks whose activations are on disk."""
        return len(self.chunks) - len(self.missing("activations"))

    def _check_finite(self, batch: ActivationBatch) -> None:
        if not np.isfinite(batch.activation).all():
            raise AutoencoderError(
                f"activations of {self.setup.name} overflow in {self.setup.dtype}; set dtype to float32 or bfloat16"
            )

    # ---- time and progress ----

    @contextmanager
    def _stage(self, name: str, missing: Sequence[int] = ()) -> Iterator[None]:
        start = time.perf_counter()
        skipped = set(range(len(self.chunks))) - set(missing)
        self._characters_done = sum(self._characters(self.chunks[chunk]) for chunk in skipped)
        self.progress(name, 0.0)
        yield
        self.progress(name, 1.0)
        self.seconds[name] = time.perf_counter() - start

    def _characters(self, ids: Sequence[int]) -> int:
        return sum(len(self.prompts[i].text) for i in ids)

    def _advance(self, stage: str, ids: Sequence[int]) -> None:
        self._characters_done += self._characters(ids)
        self.progress(stage, self._characters_done / self._characters(range(len(self.prompts))))

    def _meta(self) -> dict[str, str]:
        return {
            **{name: str(value) for name, value in asdict(self.setup).items()},
            "fingerprint": self.fingerprint,
            "reference_digest": reference_digest(self.prompts),
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "chunks": str(len(self.chunks)),
            **{f"seconds_{stage}": f"{seconds:.3f}" for stage, seconds in self.seconds.items()},  # of this run only
            **{f"version_{package}": version(package) for package in _VERSIONS},
        }


def build(
    setup: Setup,
    root: Path,
    *,
    prompts: int | None = None,
    resume: bool = True,
    force: bool = False,
    progress: Progress = lambda stage, share: None,
    pipeline: Callable[[Setup], Pipeline] = ModelPipeline,
    chunk_prompts: int = CHUNK_PROMPTS,
    spread: Spread | None = None,
    shipped: Path = SHIPPED,
) -> Path:
    """Builds the store of a setup, or resumes a build that was killed; returns the store's path.

    Returns at once if an intact store of the same setup, weights and prompts exists. One that comes with this checkout
    is taken as it is, together with the results of the experiments on it. Peak memory does not grow with the
    number of prompts, except for their texts. An older store is replaced only when the new one is complete.

    Args:
        prompts: use only this many of the setup's reference prompts, evenly spaced; None: all.
        resume: keep the chunks that an earlier build with the same fingerprint finished, and take a shipped store.
        force: build even if a current store exists.
        progress: called with the stage and the share of it that is done, including what an earlier build finished.
        pipeline: makes the models that the prompts run through.
        chunk_prompts: prompts whose shards are written together; a killed build loses at most the current chunk.
        spread: lets other processes do the chunks; None: this process does them.
        shipped: folder of the stores that come with this checkout.

    Raises:
        MissingFileError, PromptFileError: the reference prompts cannot be read.
        ModelFolderError, AutoencoderError, UnsafeWeightsError, UnknownHookError, EmbeddingModelError, HubError: see the
            loaders.
        StoreBusyError: another process builds this setup.
        StoreWriteError: the disk is full or not writable; finished chunks and an older store are intact.
        StoreDamagedError: a shard of an earlier build cannot be read.
    """
    work = Build(setup, root, reference_prompts(setup.reference, prompts), chunk_prompts, progress)
    busy = f"'{setup.name}' is being built by process {{process}}; wait until it ends, or stop it"
    with ExitStack() as stack:
        with work.writing():
            work.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(work.folder / "build.lock", busy=busy))
        ready = find_shipped(setup.name, work.fingerprint, shipped) if resume and not force else None
        if force or not _is_current(root, setup, work.fingerprint):
            if ready is not None:
                work.take(ready)
            else:
                with work.writing():
                    work.parts.prepare(resume=resume)
                work.run(pipeline(setup), spread)
        work.parts.discard()
        if ready is not None:
            AppStore(root).add_missing(setup.name, shipped_results(ready))
            prepare_model(setup, progress)
    return store_path(root, setup.name)
