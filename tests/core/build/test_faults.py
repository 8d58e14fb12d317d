"""Builds: what a kill, a full disk, a second build or a broken model does to them."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from core.build.pipeline import build
from core.catalog import Setup
from core.errors import AutoencoderError, StoreBusyError, StoreWriteError
from core.files import exclusive_lock
from tests.fixtures.builds import CHUNK, refuse, run_build, tables, tiny_setup
from tests.fixtures.stores import Batch, FakePipeline

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return tiny_setup(tmp_path)


CHILD = """
import os, random, signal, sys, threading, time
from pathlib import Path
from core.build.pipeline import build
from core.catalog import Setup
from tests.fixtures.stores import FakePipeline

reference, root, point, seed = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
stages, timers, rng = ["load", "activations", "embeddings", "assemble"], [], random.Random(seed)

def progress(stage, share):
    if not timers and stages.index(stage) + share >= point:
        # from another thread, so that it strikes wherever the build is a moment later
        timers.append(threading.Timer(rng.uniform(0, 0.02), os.kill, (os.getpid(), signal.SIGKILL)))
        timers[0].start()
    time.sleep(0.004)

setup = Setup(name="tiny", model="no-model", sae="no-sae", reference=reference)
build(setup, root, pipeline=lambda _: FakePipeline(pause_s=0.002), chunk_prompts=4, progress=progress)
for timer in timers:
    timer.join()
"""


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_build_killed_at_five_random_points_equals_an_unbroken_one(setup: Setup, tmp_path: Path) -> None:
    run_build(setup, tmp_path / "whole")
    rng = random.Random(20)
    # as far as stage 3.5: half way through the assembly
    for i, point in enumerate(sorted(rng.uniform(0.0, 3.5) for _ in range(5))):
        killed = child(CHILD, setup.reference, tmp_path / "broken", point, i)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    end = child(CHILD, setup.reference, tmp_path / "broken", 9.0, 0)
    assert end.returncode == 0, end.stderr
    assert tables(tmp_path / "broken") == tables(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "broken" / "tiny").iterdir()) == ["build.lock", "store.duckdb"]


def test_second_build_of_a_setup_is_refused(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    with (
        exclusive_lock(tmp_path / "tiny" / "build.lock", busy="never"),
        pytest.raises(StoreBusyError, match=f"'tiny' is being built by process {os.getpid()}; wait until it ends"),
    ):
        build(setup, tmp_path, pipeline=refuse, chunk_prompts=CHUNK)
    run_build(setup, tmp_path)  # free again


FULL_DISK = """
import resource, sys
from pathlib import Path
from core.build.pipeline import build
from core.catalog import Setup
from core.errors import StoreWriteError
from tests.fixtures.stores import FakePipeline

setup = Setup(name="tiny", model="no-model", sae="no-sae", reference=sys.argv[1])
for limit in (1_000, 100_000, resource.RLIM_INFINITY):  # too small for a shard, too small for the store, enough
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    pipeline = FakePipeline()
    try:
        build(setup, Path(sys.argv[2]), pipeline=lambda _: pipeline, chunk_prompts=4, force=True)
        print("built", pipeline.calls)
    except StoreWriteError as exc:
        print(exc)
"""


def test_disk_without_room(setup: Setup, tmp_path: Path) -> None:
    run_build(setup, tmp_path)
    older = tables(tmp_path)
    Path(setup.reference).write_text(Path(setup.reference).read_text() + "one more prompt\n")
    lines = child(FULL_DISK, setup.reference, tmp_path).stdout.splitlines()
    assert len(lines) == 3
    assert "cannot write" in lines[0]
    assert "0 of 6 chunks are kept; make room and go on: python -m core build tiny" in lines[0]
    assert "cannot write" in lines[1]
    assert "24 prompts' activations are kept; make room and go on: python -m core build tiny" in lines[1]
    assert lines[2] == "built []"  # all of it was kept
    assert [row for row in tables(tmp_path)["prompts"] if row[0] < 23] == older["prompts"]
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["build.lock", "store.duckdb"]


def test_failed_build_keeps_the_older_store(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_build(setup, tmp_path)
    older = tables(tmp_path)
    real = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "store.duckdb":
            raise OSError(28, os.strerror(28))
        real(source, target)

    monkeypatch.setattr("core.files.os.replace", full)
    with pytest.raises(StoreWriteError, match="No space left on device"):
        run_build(setup, tmp_path, force=True)
    monkeypatch.undo()
    assert tables(tmp_path) == older
    assert not list((tmp_path / "tiny").glob("*.partial*"))


def test_store_folder_that_is_a_file(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreWriteError, match=r"Not a directory.*; 0 of 6 chunks are kept"):
        run_build(setup, tmp_path / "file")


def test_overflowing_activations_are_refused(setup: Setup, tmp_path: Path) -> None:
    class Overflowing(FakePipeline):
        def activations(self, texts: Sequence[str], ids: Sequence[int]) -> Iterator[Batch]:
            for batch in super().activations(texts, ids):
                batch.activation[0] = np.inf
                yield batch

    with pytest.raises(AutoencoderError, match="activations of tiny overflow in float32; set dtype to"):
        run_build(setup, tmp_path, Overflowing())


def test_prompt_that_the_pipeline_leaves_out_is_an_error(setup: Setup, tmp_path: Path) -> None:
    class Careless(FakePipeline):
        def activations(self, texts: Sequence[str], ids: Sequence[int]) -> Iterator[Batch]:
            return super().activations(texts[1:], ids[1:])

    with pytest.raises(ValueError, match="chunk 0 is due prompts "):
        run_build(setup, tmp_path, Careless())
