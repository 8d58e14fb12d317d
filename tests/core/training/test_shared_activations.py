"""Activations kept for several SAEs: the language model runs once, the weights are those of SAEs trained alone."""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.models.language_model import LanguageModel
from core.training.autoencoder_config import AutoencoderConfig
from core.training.grid import Grid
from core.training.grid_run import run_grid
from core.training.shared_activations import KeptChunks, SharedActivations
from tests.core.training.conftest import Configure
from tests.fixtures.full_disk import file_size_limit

ROOM = 2**20
HOOK, EARLIER = "blocks.1.hook_resid_post", "blocks.0.hook_resid_post"


@pytest.fixture
def jobs(configure: Configure) -> tuple[AutoencoderConfig, ...]:
    """Two SAEs on one stream, one of them at another hook point, and a third on another stream."""
    return (
        configure(name="standard", architecture="standard"),
        configure(name="wide", architecture="topk", expansion=8, tokens=15 * 128, lr=5e-4, hook_name=EARLIER),
        configure(name="other-seed", architecture="standard", seed=1),
    )


@pytest.fixture
def forward_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each forward pass of the language model."""
    passes: list[int] = []
    activations_at = LanguageModel.activations_at

    def counted(self: LanguageModel, *args: Any, **options: Any) -> Any:
        passes.append(1)
        return activations_at(self, *args, **options)

    monkeypatch.setattr(LanguageModel, "activations_at", counted)
    return passes


def trained(jobs: tuple[AutoencoderConfig, ...], text: Path, work: Path, max_bytes: int) -> list[dict[str, Any]]:
    results = run_grid(Grid(name="g", jobs=jobs, shared_activations_bytes=max_bytes), text, work)
    assert [result.error for result in results] == [None] * len(jobs)
    assert not [path for path in work.glob("g.*") if path.is_dir()]
    return [load_file(work / job.name / "sae" / "sae_weights.safetensors") for job in jobs]


@pytest.mark.parametrize("max_bytes", [ROOM, 100_000], ids=["all", "some"])
def test_sharing_changes_no_weight(
    jobs: tuple[AutoencoderConfig, ...], small_corpus: Path, tmp_path: Path, forward_passes: list[int], max_bytes: int
) -> None:
    alone = trained(jobs, small_corpus, tmp_path / "alone", 0)
    passes_alone = len(forward_passes)
    shared = trained(jobs, small_corpus, tmp_path / "shared", max_bytes)
    assert len(forward_passes) - passes_alone < passes_alone
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_killed_grid_takes_over_no_activations(
    jobs: tuple[AutoencoderConfig, ...], small_corpus: Path, tmp_path: Path
) -> None:
    alone = trained(jobs[:2], small_corpus, tmp_path / "alone", 0)
    left = tmp_path / "work" / "g.activations"
    left.mkdir(parents=True)
    (left / "0.safetensors").write_bytes(b"of another model")
    again = trained(jobs[:2], small_corpus, tmp_path / "work", ROOM)
    assert all(torch.equal(alone[0][name], again[0][name]) for name in alone[0])


@pytest.mark.parametrize(
    "setting",
    [{"seed": 1}, {"text_seed": 1}, {"model_dtype": "bfloat16"}, {"keep_special": True}, {"context_size": 16}],
)
def test_other_tokens_are_another_stream(configure: Configure, setting: dict[str, Any]) -> None:
    job = configure()
    assert replace(job, **setting).token_stream() != job.token_stream()


@pytest.mark.parametrize(
    "setting",
    [
        *({"architecture": "gated"}, {"expansion": 2}, {"sparsity": 7.0}, {"tokens": 999}, {"name": "another"}),
        *({"hook_name": "blocks.0.hook_resid_post"}, {"seed": 1, "text_seed": 0}),
    ],
)
def test_other_sae_is_the_same_stream(configure: Configure, setting: dict[str, Any]) -> None:
    job = configure()
    assert replace(job, **setting).token_stream() == job.token_stream()


def test_only_what_others_need_is_kept(jobs: tuple[AutoencoderConfig, ...], tmp_path: Path) -> None:
    with SharedActivations(jobs, tmp_path / "kept", ROOM) as shared:
        chunks = shared.of(jobs[0])
        assert chunks is not None
        chunks.chunk(0, HOOK, lambda hook_names: {HOOK: torch.ones(2, 3)})
        assert shared.of(jobs[1]) is chunks
        assert list((tmp_path / "kept").rglob("*.safetensors")) == [tmp_path / "kept" / HOOK / "0.safetensors"]
        assert shared.of(jobs[2]) is None  # alone on its stream
        assert not (tmp_path / "kept").exists()
    with SharedActivations(jobs, tmp_path / "kept", 0) as nothing:
        assert nothing.of(jobs[0]) is None


def test_chunks_are_kept_as_far_as_there_is_room(tmp_path: Path) -> None:
    room = 2 * 2 * 24 + 24  # for two chunks of 2 x 3 float32 at both, and one at one of them
    kept = KeptChunks(tmp_path / "kept", max_bytes=room, hook_names=["a", "b"])
    computed: list[tuple[int, tuple[str, ...]]] = []

    def compute(number: int, hook_names: Sequence[str]) -> dict[str, torch.Tensor]:
        computed.append((number, tuple(hook_names)))
        return {name: torch.full((2, 3), float(number + ord(name))) for name in hook_names}

    for hook_name in "ab":
        for number in range(4):
            chunk = kept.chunk(number, hook_name, partial(compute, number))
            assert torch.equal(chunk, torch.full((2, 3), float(number + ord(hook_name))))
    both = ("a", "b")  # 2 is computed for both before it is known that it does not fit
    assert computed == [(0, both), (1, both), (2, both), (3, ("a",)), (2, ("b",)), (3, ("b",))]


def test_full_disk_is_told_with_the_checkpoint(
    jobs: tuple[AutoencoderConfig, ...], small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = replace(jobs[0], tokens=60 * 128), replace(jobs[1], tokens=3 * 128)
    chunk = KeptChunks.chunk

    def chunk_without_room(self: KeptChunks, number: int, hook_name: str, compute: Any) -> torch.Tensor:
        with file_size_limit(1_000) if number >= 8 else nullcontext():
            return chunk(self, number, hook_name, compute)

    monkeypatch.setattr(KeptChunks, "chunk", chunk_without_room)
    first, second = run_grid(Grid(name="g", jobs=full, shared_activations_bytes=ROOM), small_corpus, tmp_path)
    assert first.error is not None
    assert "no room for shared activations" in first.error
    assert "lower shared_activations_gb" in first.error
    assert re.search(r"step-\d+' is intact; free space and run the same command again", first.error)
    assert second.error is None  # its activations were kept before the disk was full
    monkeypatch.undo()
    again = trained(full, small_corpus, tmp_path, ROOM)
    alone = trained(full, small_corpus, tmp_path / "alone", 0)
    assert all(torch.equal(alone[0][name], again[0][name]) for name in alone[0])
