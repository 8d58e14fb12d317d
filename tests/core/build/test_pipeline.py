"""Builds: what they write, what they skip, resume and discard."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from core.build.fingerprint import fingerprint
from core.build.pipeline import build
from core.build.through_models import logit_lens
from core.catalog import Setup
from core.errors import StoreDamagedError
from core.store.reader import Store
from core.store.shards import Parts
from core.text.prompts import Prompt, reference_prompts
from tests.fixtures.builds import CHUNK, N_CHUNKS, N_PROMPTS, refuse, run_build, tables, tiny_setup
from tests.fixtures.stores import Batch, FakePipeline


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return tiny_setup(tmp_path)


# ---- what a build writes ----


def test_build_writes_what_the_pipeline_yields(setup: Setup, tmp_path: Path) -> None:
    path = run_build(setup, tmp_path / "store")
    assert path == tmp_path / "store" / "tiny" / "store.duckdb"
    texts, pipeline = [p.text for p in reference_prompts(setup.reference)], FakePipeline()
    with Store.open(tmp_path / "store", "tiny") as store:
        assert store.prompts()["text"].tolist() == texts  # by number, although they ran by length
        assert [list(words) for words in store.prompts()["tokens"]] == [text.split() for text in texts]
        np.testing.assert_array_equal(store.embeddings(), pipeline.embed(texts))
        a = np.zeros((N_PROMPTS, 9, FakePipeline.d_sae))
        for batch in pipeline.activations(texts, range(N_PROMPTS)):
            a[batch.prompt, batch.position, batch.neuron] = batch.activation
        for neuron in range(FakePipeline.d_sae):
            rows = store.neuron_rows(neuron)
            np.testing.assert_array_equal(rows["prompt"], np.flatnonzero(a[..., neuron].any(axis=1)))
            np.testing.assert_allclose(rows["sum"], a[rows["prompt"], :, neuron].sum(axis=1), rtol=1e-6)
        assert store.neurons()["promoted"].map(list).tolist() == pipeline.lens()[0]
        assert store.d_sae == FakePipeline.d_sae


def test_build_meta(setup: Setup, tmp_path: Path) -> None:
    run_build(setup, tmp_path)
    with Store.open(tmp_path, "tiny") as store:
        meta = store.meta
    assert (meta["model"], meta["sae"], meta["context_size"]) == ("no-model", "no-sae", "256")
    assert (meta["n_prompts"], meta["d_sae"], meta["chunks"]) == (str(N_PROMPTS), "16", "6")
    assert meta["fingerprint"] == fingerprint(setup, reference_prompts(setup.reference), CHUNK)
    assert meta["version_duckdb"] == duckdb.__version__
    assert {f"seconds_{stage}" for stage in ("load", "activations", "embeddings", "assemble")} <= set(meta)


def test_build_leaves_only_the_store(setup: Setup, tmp_path: Path) -> None:
    run_build(setup, tmp_path)
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["build.lock", "store.duckdb"]


def test_build_takes_a_spread_of_prompts(setup: Setup, tmp_path: Path) -> None:
    run_build(setup, tmp_path, prompts=5)
    texts = [p.text for p in reference_prompts(setup.reference)]
    with Store.open(tmp_path, "tiny") as store:
        assert store.prompts()["text"].tolist() == [texts[i * N_PROMPTS // 5] for i in range(5)]


def test_progress_goes_from_0_to_1_in_each_stage(setup: Setup, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    run_build(setup, tmp_path, progress=lambda stage, share: told.append((stage, share)))
    assert list(dict.fromkeys(stage for stage, _ in told)) == ["load", "activations", "embeddings", "assemble"]
    for stage in ("load", "activations", "embeddings", "assemble"):
        shares = [share for name, share in told if name == stage]
        assert shares[0] == 0.0
        assert shares[-1] == 1.0
        assert shares == sorted(shares)


def test_prompts_run_by_length_and_never_more_than_a_chunk(setup: Setup, tmp_path: Path) -> None:
    lengths: list[int] = []
    chunks: list[int] = []

    class Watched(FakePipeline):
        def activations(self, texts: Sequence[str], ids: Sequence[int]) -> Iterator[Batch]:
            lengths.extend(map(len, texts))
            chunks.append(len(texts))
            return super().activations(texts, ids)

    run_build(setup, tmp_path, Watched())
    assert chunks == [4, 4, 4, 4, 4, 3]
    assert lengths == sorted(lengths, reverse=True)


# ---- what is skipped, resumed, discarded ----


def test_current_store_is_not_built_again(setup: Setup, tmp_path: Path) -> None:
    path = run_build(setup, tmp_path)
    before = path.stat()
    assert build(setup, tmp_path, pipeline=refuse, chunk_prompts=CHUNK) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    forced = FakePipeline()
    run_build(setup, tmp_path, forced, force=True)
    assert forced.calls[0] == "load"


@pytest.mark.parametrize("spoil", [lambda path: os.truncate(path, 40_000), lambda path: path.write_bytes(b"no store")])
def test_plain_build_mends_a_damaged_store(setup: Setup, tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    path = run_build(setup, tmp_path)
    before = tables(tmp_path)
    spoil(path)
    with pytest.raises(StoreDamagedError, match="python -m core build tiny"):
        Store.open(tmp_path, "tiny").check()
    run_build(setup, tmp_path)
    assert tables(tmp_path) == before


class Failing(FakePipeline):
    """Fails at the fourth chunk of activations, or of embeddings."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def _fail(self) -> None:
        if sum(call.startswith(self.at) for call in self.calls) == 3:
            raise KeyboardInterrupt

    def activations(self, texts: Sequence[str], ids: Sequence[int]) -> Iterator[Batch]:
        if self.at == "activations":
            self._fail()
        return super().activations(texts, ids)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        if self.at == "embed":
            self._fail()
        return super().embed(texts)


def interrupt(setup: Setup, root: Path, at: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_build(setup, root, Failing(at))


def count(pipeline: FakePipeline) -> tuple[int, int]:
    """Chunks of activations, chunks of embeddings."""
    calls = pipeline.calls
    return sum(c.startswith("activations") for c in calls), sum(c.startswith("embed") for c in calls)


def test_resume_computes_only_what_is_missing(setup: Setup, tmp_path: Path) -> None:
    run_build(setup, tmp_path / "whole")
    interrupt(setup, tmp_path, "activations")
    rest = FakePipeline()
    run_build(setup, tmp_path, rest)
    assert count(rest) == (3, 6)
    with Store.open(tmp_path, "tiny") as store:
        assert store.meta["chunks_resumed"] == "3"
    assert tables(tmp_path) == tables(tmp_path / "whole")


def test_resume_loads_no_model_for_embeddings_alone(setup: Setup, tmp_path: Path) -> None:
    run_build(setup, tmp_path / "whole")
    interrupt(setup, tmp_path, "embed")
    rest = FakePipeline()
    run_build(setup, tmp_path, rest)
    assert rest.calls == ["embed 4", "embed 4", "embed 3"]
    assert tables(tmp_path) == tables(tmp_path / "whole")


def test_no_resume_starts_afresh(setup: Setup, tmp_path: Path) -> None:
    interrupt(setup, tmp_path, "embed")
    whole = FakePipeline()
    run_build(setup, tmp_path, whole, resume=False)
    assert count(whole) == (N_CHUNKS, N_CHUNKS)


@pytest.mark.parametrize("change", [{"context_size": 128}, {"hook_name": "blocks.0.hook_resid_post"}, {"chat": True}])
def test_parts_of_another_configuration_are_discarded(setup: Setup, tmp_path: Path, change: dict[str, object]) -> None:
    interrupt(setup, tmp_path, "embed")
    whole = FakePipeline()
    run_build(replace(setup, **change), tmp_path, whole)  # type: ignore[arg-type]
    assert count(whole) == (N_CHUNKS, N_CHUNKS)


def test_parts_of_other_prompts_are_discarded(setup: Setup, tmp_path: Path) -> None:
    interrupt(setup, tmp_path, "embed")
    path = Path(setup.reference)
    path.write_text(path.read_text().replace("heart", "liver"))
    whole = FakePipeline()
    run_build(setup, tmp_path, whole)
    assert count(whole) == (N_CHUNKS, N_CHUNKS)


def test_unreadable_shard_names_the_way_out(setup: Setup, tmp_path: Path) -> None:
    interrupt(setup, tmp_path, "embed")
    shard = next((tmp_path / "tiny" / "parts").rglob("*-tokens.parquet"))
    shard.write_bytes(b"PAR1 is not enough")
    with pytest.raises(
        StoreDamagedError, match=r"parts.* is damaged: .*; repair it: python -m core build tiny .*--no-res"
    ):
        run_build(setup, tmp_path)
    run_build(setup, tmp_path, resume=False)
    with Store.open(tmp_path, "tiny") as store:
        assert store.n_prompts == N_PROMPTS


# ---- fingerprints ----

PROMPTS = [Prompt("a"), Prompt("b")]


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"title": "T"}, {"device": "cuda"}, {"origin": "preset"}, {"n_parameters": 7}]
)
def test_fingerprint_leaves_out_what_changes_no_number(setup: Setup, change: dict[str, object]) -> None:
    assert fingerprint(replace(setup, **change), PROMPTS) == fingerprint(setup, PROMPTS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"model": "m"}, {"sae": "s"}, {"dtype": "bfloat16"}, {"embedding_model": "e"}, {"context_size": 9}]
)
def test_fingerprint_follows_the_setup(setup: Setup, change: dict[str, object]) -> None:
    assert fingerprint(replace(setup, **change), PROMPTS) != fingerprint(setup, PROMPTS)  # type: ignore[arg-type]


def test_fingerprint_follows_the_prompts_and_their_labels(setup: Setup) -> None:
    others = [PROMPTS[::-1], PROMPTS[:1], [Prompt("a", task="t"), Prompt("b")], [Prompt("a", group="g"), Prompt("b")]]
    digests = {fingerprint(setup, prompts) for prompts in [PROMPTS, *others]}
    assert len(digests) == 5


def test_fingerprint_follows_weights_and_not_their_place(setup: Setup, tmp_path: Path) -> None:
    def digest(folder: str) -> str:
        return fingerprint(replace(setup, sae=str(tmp_path / folder)), PROMPTS)

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "sae_weights.safetensors").write_bytes(b"0" * 3_000_000)
    before = digest("a")
    (tmp_path / "a" / "README.md").write_text("a card")
    (tmp_path / "a" / "evaluation.json").write_text("{}")
    assert digest("a") == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert digest("b") == before
    (tmp_path / "b" / "sae_weights.safetensors").write_bytes(b"0" * 2_999_999 + b"1")
    other = digest("b")
    (tmp_path / "b" / "cfg.json").write_text('{"k": 16}')
    assert len({before, other, digest("b")}) == 3


def test_parts_hold_one_fingerprint(tmp_path: Path) -> None:
    first = Parts(tmp_path / "parts", "first")
    first.prepare(resume=True)
    first.write_embeddings(0, [0, 1], np.eye(2, dtype=np.float32))
    assert first.has_embeddings(0)
    assert not first.has_embeddings(1)
    first.prepare(resume=True)
    assert first.has_embeddings(0)
    Parts(tmp_path / "parts", "second").prepare(resume=True)
    assert not first.has_embeddings(0)


# ---- logit lens ----


def test_logit_lens_names_the_tokens_of_the_largest_and_smallest_logits() -> None:
    import torch

    class Model:
        d_model = 3
        W_U = torch.tensor([[1.0, 0.0, 0.0, -1.0], [0.0, 2.0, 0.0, -2.0], [0.0, 0.0, 3.0, -3.0]])

        def unembed(self, directions: torch.Tensor) -> torch.Tensor:
            return directions @ self.W_U

        def token_strings(self, ids: Sequence[int]) -> list[str]:
            return ["abcd"[i] for i in ids]

    class Sae:
        hook_name, d_in, d_sae = "blocks.0.hook_resid_post", 3, 2
        W_dec = torch.tensor([[1.0, 1.0, 0.0], [-1.0, 0.0, 0.5]])

    # logits: 1 2 0 -3 and -1 0 1.5 -0.5
    assert logit_lens(Model(), Sae(), 2) == ([["b", "a"], ["c", "b"]], [["d", "c"], ["a", "d"]])  # type: ignore[arg-type]
    Sae.hook_name = "blocks.0.attn.hook_z"
    assert logit_lens(Model(), Sae(), 2) == ([[], []], [[], []])  # type: ignore[arg-type]
