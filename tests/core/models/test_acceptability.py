"""Classifiers of acceptability: in the real formats, from a folder, the hub's cache, or trained here."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertForSequenceClassification,
    BertTokenizer,
)

from core.catalog import find_setup
from core.errors import AcceptabilityError, UnsafeWeightsError
from core.models import acceptability
from core.models.acceptability import (
    EMBEDDED,
    PUBLISHED,
    VARIABLE,
    WEIGHTS,
    Probe,
    load_acceptability,
    load_probe,
    residual_features,
)
from core.models.loading import load_language_model
from tests.fixtures.language_models import write_classifier

TEXTS = ["the old man sat by the river", " ", "river the", "", "a film about war and peace and the sea"]


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


# ---- the probe ----


BLOCKS = (0, 2)


@pytest.fixture
def probe(tmp_path: Path, user_setups: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a random probe on two blocks of the tiny GPT-2, d_model 32."""
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(user_setups))
    weight = np.random.default_rng(0).normal(size=4 * 32).astype(np.float32)
    (tmp_path / "probe").mkdir()
    Probe("gpt2-topk", BLOCKS, weight, 0.25).save(tmp_path / "probe" / WEIGHTS)
    return tmp_path / "probe"


def test_features_are_those_of_plain_transformers(gpt2_folder: Path, user_setups: Path) -> None:
    texts = [" a film about war and peace ", "river", "the old man sat by the river"]
    ours = residual_features(load_language_model(find_setup("gpt2-topk", user_setups)), texts, BLOCKS)
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    for text, row in zip(texts, ours, strict=True):
        ids = [tokenizer.bos_token_id, *tokenizer(text.strip(), add_special_tokens=False).input_ids]
        streams: list[torch.Tensor] = []
        for block in BLOCKS:
            model.transformer.h[block].register_forward_hook(
                lambda _module, _args, out, streams=streams: streams.append(out[0].detach().reshape(-1, 32))
            )
        with torch.no_grad():
            model(torch.tensor([ids]))
        expected = torch.cat([part for x in streams for part in (x[-1], x[1:].mean(0))])
        assert row == pytest.approx(expected.numpy(), abs=1e-5)


def test_probability_of_the_probe(probe: Path, user_setups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptability, "EMBEDDED", probe)
    loaded = load_acceptability()
    assert loaded is not None
    assert loaded.name == "probe"
    texts = ["the sea", "", "a film about war"]
    weight = load_file(probe / WEIGHTS)["weight"].numpy()
    model = load_language_model(find_setup("gpt2-topk", user_setups))
    logits = residual_features(model, [texts[0], texts[2]], BLOCKS) @ weight + 0.25
    probability = loaded.probabilities(texts)
    assert np.isnan(probability[1])
    assert probability[[0, 2]] == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)


@pytest.mark.parametrize("damage", ["cut", "tensor"])
def test_damaged_probe_is_named(probe: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / damage
    folder.mkdir()
    if damage == "cut":
        (folder / WEIGHTS).write_bytes((probe / WEIGHTS).read_bytes()[:100])
    else:
        save_file({"weight": load_file(probe / WEIGHTS)["weight"]}, folder / WEIGHTS)
    with pytest.raises(
        AcceptabilityError, match=rf"cannot load the classifier in '.*{damage}': .*; restore the folder"
    ):
        load_probe(folder)


def test_probe_of_another_model_is_refused(probe: Path) -> None:
    Probe("gpt2-topk", (0,), load_file(probe / WEIGHTS)["weight"].numpy(), 0.0).save(probe / WEIGHTS)
    with pytest.raises(AcceptabilityError, match=r"probe' does not fit the model of 'gpt2-topk'"):
        load_probe(probe)


@pytest.mark.slow
def test_embedded_probe_prefers_grammar(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(acceptability, "EMBEDDED", EMBEDDED)
    monkeypatch.setenv("STEERSCOPE_STORE", str(tmp_path_factory.mktemp("dequantised")))
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
