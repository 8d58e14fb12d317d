"""Builds whose chunks Ray's workers compute: the store of a local build, also after a worker failed."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from core.build.on_ray import build_on_ray
from core.build.pipeline import build
from core.catalog import Setup, find_setup
from core.cli import main
from core.errors import EngineError
from core.ray_tasks import Resources
from tests.fixtures.builds import CHUNK, N_CHUNKS, refuse, run_build, tables, tiny_setup
from tests.fixtures.stores import Batch, FakePipeline


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    """A cluster of this machine with room for two tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # Ray itself gives way to whatever else runs here
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return tiny_setup(tmp_path)


class TellingPipeline(FakePipeline):
    """Leaves a file for each call, named by its process and numbered by its prompts; fails where it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(pause_s=0.2)
        self.folder = folder

    def activations(self, texts: Sequence[str], ids: Sequence[int]) -> Iterator[Batch]:
        (self.folder / f"{os.getpid()}-{min(ids)}").touch()
        if (self.folder / "fail").exists() and 0 in ids:
            raise RuntimeError("CUDA out of memory\nand more")
        return super().activations(texts, ids)


class Telling:
    """Makes `TellingPipeline`s; it can be sent to a worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, setup: Setup) -> TellingPipeline:
        return TellingPipeline(self.folder)


@pytest.mark.slow
def test_two_workers_build_the_store_of_one(setup: Setup, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.mkdir()
    progress: list[tuple[str, float]] = []
    build_on_ray(
        setup,
        tmp_path / "ray",
        pipeline=Telling(told),
        chunk_prompts=CHUNK,
        progress=lambda stage, share: progress.append((stage, share)),
    )
    run_build(setup, tmp_path / "local")
    assert tables(tmp_path / "ray") == tables(tmp_path / "local")
    processes = {int(file.name.split("-")[0]) for file in told.iterdir()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert len(list(told.iterdir())) == N_CHUNKS
    assert sorted(path.name for path in (tmp_path / "ray" / "tiny").iterdir()) == ["build.lock", "store.duckdb"]
    assert list(dict.fromkeys(stage for stage, _ in progress)) == ["activations", "embeddings", "assemble"]
    for stage in ("activations", "embeddings"):
        shares = [share for name, share in progress if name == stage]
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
    build_on_ray(setup, tmp_path / "ray", pipeline=refuse, chunk_prompts=CHUNK)  # up to date: nothing is computed


@pytest.mark.slow
def test_failed_worker_is_named_and_its_chunks_are_done_later(setup: Setup, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.mkdir()
    (told / "fail").touch()
    with pytest.raises(
        EngineError, match=r"1 of 2 workers failed \(RuntimeError: CUDA out of memory\); \d of 6 chunks"
    ):
        build_on_ray(setup, tmp_path / "ray", pipeline=Telling(told), chunk_prompts=CHUNK)
    kept = len(list((tmp_path / "ray").rglob("*-prompts.parquet")))
    assert 0 < kept < N_CHUNKS
    for file in told.iterdir():
        file.unlink()
    build_on_ray(setup, tmp_path / "ray", pipeline=Telling(told), chunk_prompts=CHUNK)
    assert len(list(told.iterdir())) == N_CHUNKS - kept
    run_build(setup, tmp_path / "local")
    assert tables(tmp_path / "ray") == tables(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [Resources(cpus=3), Resources(gpus=1)])
def test_more_than_a_machine_has_is_refused(setup: Setup, tmp_path: Path, asked: Resources) -> None:
    with pytest.raises(EngineError, match="no machine of the cluster has them"):
        build_on_ray(setup, tmp_path / "ray", pipeline=Telling(tmp_path), chunk_prompts=CHUNK, resources=asked)


@pytest.mark.slow
def test_workers_that_see_other_prompts_are_refused(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.build.fingerprint.reference_digest", lambda prompts: "other")
    with pytest.raises(EngineError, match=r"the model, SAE or prompts of 'tiny' differ on .*: share their folders"):
        build_on_ray(setup, tmp_path / "ray", pipeline=Telling(tmp_path), chunk_prompts=CHUNK)


@pytest.mark.slow
def test_models_and_embeddings_give_the_same_store(user_setups: Path, tmp_path: Path) -> None:
    setup = replace(find_setup("gpt2-topk", user_setups), name="tiny")
    build_on_ray(setup, tmp_path / "ray", chunk_prompts=32)
    build(setup, tmp_path / "local", chunk_prompts=32)
    assert tables(tmp_path / "ray") == tables(tmp_path / "local")


@pytest.mark.parametrize("option", [("--cpus", "2"), ("--gpus", "1"), ("--address", "auto")])
def test_what_only_ray_knows_wants_the_engine(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "smollm2", *option]) == 2
    assert "add --engine ray" in capsys.readouterr().err
