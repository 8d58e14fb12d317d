"""Classifiers of acceptability: in the real formats, from a folder, the hub's cache, or trained here."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from core.errors import AcceptabilityError, UnsafeWeightsError
from core.models import acceptability
from core.models.acceptability import EMBEDDED, PUBLISHED, VARIABLE, WEIGHTS, load_acceptability, load_minilm_classifier

TEXTS = ["the old man sat by the river", " ", "river the", "", "a film about war and peace and the sea"]


def write_classifier(folder: Path, classes: int = 2) -> Path:
    """A tiny random BERT for texts of one class of some."""
    words = sorted({word for text in TEXTS for word in text.split()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    torch.manual_seed(classes)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.5,
        num_labels=classes,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, no cache, and no classifier of our own."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(acceptability, "EMBEDDED", tmp_path / "none")


def test_probability_is_that_of_the_second_class(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(classifier))
    loaded = load_acceptability()
    assert loaded is not None
    assert loaded.name == str(classifier)
    probability = loaded.probabilities(TEXTS)
    model, tokenizer = (
        BertForSequenceClassification.from_pretrained(classifier).eval(),
        BertTokenizer.from_pretrained(classifier),
    )
    for text, value in zip(TEXTS, probability, strict=True):
        if not text.strip():
            assert np.isnan(value)
            continue
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0, 1]
        assert value == pytest.approx(float(expected), abs=1e-5)
    assert len(set(probability[~np.isnan(probability)].round(4))) == 3


def test_published_classifier_comes_from_the_cache(classifier: Path, tmp_path: Path) -> None:
    repository = tmp_path / "cache" / f"models--{PUBLISHED.replace('/', '--')}"
    shutil.copytree(classifier, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    loaded = load_acceptability()
    assert loaded is not None
    assert loaded.name.endswith("snapshots/abc")


def test_without_any_classifier_there_is_none() -> None:
    assert load_acceptability() is None


def test_pickled_weights_are_refused(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(classifier, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setenv(VARIABLE, str(folder))
    with pytest.raises(UnsafeWeightsError, match=r"pickled' has no safetensors weights"):
        load_acceptability()


def test_three_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(write_classifier(tmp_path / "three", classes=3)))
    with pytest.raises(AcceptabilityError, match="has 3 classes; set STEERSCOPE_ACCEPTABILITY to a classifier of two"):
        load_acceptability()


def test_unknown_classifier_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nobody/nothing")
    with pytest.raises(AcceptabilityError, match=r"cannot load the classifier 'nobody/nothing' .*trained on CoLA"):
        load_acceptability()


# ---- the one trained here ----


@pytest.fixture(scope="module")
def embedded() -> Path:
    assert (EMBEDDED / WEIGHTS).is_file()
    return EMBEDDED


def test_embedded_classifier_prefers_grammar(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptability, "EMBEDDED", embedded)
    loaded = load_acceptability()
    assert loaded is not None
    good = [
        "The cat sat on the mat.",
        "She has read the book.",
        "He wants to go home now.",
        "They were seen by the men.",
    ]
    bad = [
        "The cat on the sat mat.",
        "She have reads book the.",
        "He want going to home now to.",
        "They was seed by men the.",
    ]
    assert (loaded.probabilities(good) > loaded.probabilities(bad)).all()


def test_embedded_classifier_leaves_the_embeddings_alone(embedded: Path) -> None:
    from core.models.embeddings import load_embedding_model

    model = load_embedding_model()
    before = model.embed(["a heart of stone"])
    load_minilm_classifier(embedded)
    assert (model.embed(["a heart of stone"]) == before).all()


@pytest.mark.parametrize("damage", ["cut", "tensor"])
def test_damaged_classifier_is_named(embedded: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / damage
    folder.mkdir()
    if damage == "cut":
        (folder / WEIGHTS).write_bytes((embedded / WEIGHTS).read_bytes()[:1_000])
    else:
        state = load_file(embedded / WEIGHTS)
        save_file({name: value for name, value in state.items() if name != "head.1.bias"}, folder / WEIGHTS)
    with pytest.raises(
        AcceptabilityError, match=rf"cannot load the classifier in '.*{damage}': .*; restore the folder"
    ):
        load_minilm_classifier(folder)
