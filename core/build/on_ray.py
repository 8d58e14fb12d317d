"""Builds a store on a Ray cluster: chunks of prompts go to workers that share the folders of store and models.

Each worker writes the shards of its chunks to the build's folder; this process assembles them. Batches never cross
chunks, so the shards and the store equal those of a local build.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from core.build.fingerprint import CHUNK_PROMPTS
from core.build.pipeline import Build, Stage, build
from core.build.through_models import ModelPipeline, Pipeline
from core.catalog import Setup
from core.errors import EngineError
from core.progress import Progress
from core.ray_tasks import Resources, cluster, run_tasks, seen_here, slots
from core.text.prompts import reference_prompts


def build_on_ray(
    setup: Setup,
    root: Path,
    *,
    prompts: int | None = None,
    resume: bool = True,
    force: bool = False,
    progress: Progress = lambda stage, share: None,
    address: str | None = None,
    resources: Resources | None = None,
    pipeline: Callable[[Setup], Pipeline] = ModelPipeline,
    chunk_prompts: int = CHUNK_PROMPTS,
) -> Path:
    """Builds the store of a setup as `core.build.pipeline.build` does, on a Ray cluster; returns its path.

    Args:
        address: see `core.ray_tasks.cluster`; if the store is up to date, no cluster is needed.
        resources: what each worker reserves.

    Raises:
        EngineError: no cluster answers, or a worker failed; finished chunks are kept.
        StoreBusyError, StoreWriteError, ...: see `core.build.pipeline.build`.
    """
    with ExitStack() as connection:
        connected = False

        def spread(work: Build, stage: Stage, missing: Sequence[int]) -> dict[str, str]:
            nonlocal connected
            if not connected:
                connection.enter_context(cluster(address))
                connected = True
            arguments = (setup, root.resolve(), prompts, chunk_prompts, work.fingerprint, pipeline, stage)
            return _spread(work, stage, missing, resources or Resources(), arguments)

        return build(
            setup,
            root,
            prompts=prompts,
            resume=resume,
            force=force,
            progress=progress,
            pipeline=pipeline,
            chunk_prompts=chunk_prompts,
            spread=spread,
        )


def _spread(
    work: Build, stage: Stage, missing: Sequence[int], resources: Resources, arguments: tuple[object, ...]
) -> dict[str, str]:
    """Runs as many tasks as fit; chunks are dealt out in turn, because they are ordered from long prompts to short."""
    n_tasks = min(slots(resources), len(missing))
    rows = [(*arguments, list(missing[number::n_tasks]), number == 0) for number in range(n_tasks)]
    outcomes = run_tasks(_compute, rows, resources, lambda ended: work.advance_to(stage, work.missing(stage)))
    if errors := [outcome.error for outcome in outcomes if outcome.error is not None]:
        left = len(work.missing(stage))
        raise EngineError(
            f"{len(errors)} of {n_tasks} workers failed ({errors[0]}); {len(work.chunks) - left} of {len(work.chunks)} "
            f"chunks are kept; run the same command again to continue"
        )
    if not seen_here(lambda: not work.missing(stage)):
        raise EngineError(
            f"the workers are done, but '{work.folder}' lacks their shards: share it between the machines"
        )
    return outcomes[0].value or {}


def _compute(
    setup: Setup,
    root: Path,
    n_prompts: int | None,
    chunk_prompts: int,
    fingerprint: str,
    make_pipeline: Callable[[Setup], Pipeline],
    stage: Stage,
    chunks: Sequence[int],
    with_lens: bool,
) -> dict[str, str]:
    """Runs on a worker: writes the shards of some chunks for one stage; returns the pipeline's `describe()`."""
    prompts = reference_prompts(setup.reference, n_prompts)
    work = Build(setup, root, prompts, chunk_prompts, progress=lambda stage, share: None)
    if work.fingerprint != fingerprint:
        raise EngineError(
            f"the model, SAE or prompts of '{setup.name}' differ on {socket.gethostname()}: share their folders"
        )
    pipeline = make_pipeline(setup)
    if stage == "embeddings":
        for chunk in chunks:
            work.write_embeddings(pipeline, chunk)
        return {}
    pipeline.load()
    if with_lens:
        work.write_lens(pipeline)
    for chunk in chunks:
        work.write_activations(pipeline, chunk)
    return pipeline.describe()
