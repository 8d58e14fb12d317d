"""Training of the acceptability classifier: CoLA's format, its correlation, and a run on a few sentences."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.errors import MissingFileError, PromptFileError, TrainingConfigError
from core.models.acceptability import ACCEPTED, WEIGHTS, MiniLMClassifier, load_minilm_classifier
from core.training.acceptability import (
    AcceptabilityConfig,
    config_from_table,
    fit,
)
from core.training.cola import Sentence, best_threshold, made_up, matthews, matthews_interval, read_cola, split
from core.training.run import run_training

GOOD = [
    "She reads a book.",
    "The dog barked at me.",
    "We went home early.",
    "He has two brothers.",
    "It rained all day.",
]
BAD = [
    "She read book a.",
    "The dog barked me at of.",
    "We home went the.",
    "He have two brother a.",
    "It all rained the.",
]
SENTENCES = [Sentence(text, text in GOOD) for pair in zip(GOOD, BAD, strict=True) for text in pair]
CONFIG = AcceptabilityConfig(train="train.tsv", test="test.tsv", tuned_layers=1, epochs=4, batch_size=5, lr=1e-3)


@pytest.fixture
def cola(tmp_path: Path) -> Path:
    """A text folder with ten blocks of fifty sentences to train on, and ten to test on."""
    lines = [f"src\t{int(s.acceptable)}\t{'' if s.acceptable else '*'}\t{s.text}\n" for s in SENTENCES]
    (tmp_path / "train.tsv").write_text("".join(lines) * 50, encoding="utf-8")
    (tmp_path / "test.tsv").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_read_cola(cola: Path) -> None:
    assert read_cola(cola / "test.tsv") == SENTENCES


@pytest.mark.parametrize("line", ["src\t1\tno mark", "src\t2\t\tA cat.", "A cat."])
def test_file_of_another_format(tmp_path: Path, line: str) -> None:
    (tmp_path / "t.tsv").write_text(f"src\t1\t\tA cat.\n{line}\n")
    with pytest.raises(PromptFileError, match="line 2 is not CoLA's"):
        read_cola(tmp_path / "t.tsv")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="name a file of CoLA"):
        read_cola(tmp_path / "none.tsv")


def test_split_holds_back_every_tenth_block() -> None:
    sentences = [Sentence(str(i), True) for i in range(1_020)]
    train, dev = split(sentences, 0.1)
    assert [s.text for s in dev] == [str(i) for i in (*range(450, 500), *range(950, 1_000))]
    assert len(train) + len(dev) == 1_020
    assert not {s.text for s in train} & {s.text for s in dev}


def test_made_up_texts_are_half_paragraphs_of_acceptable_sentences_and_half_gibberish() -> None:
    added = made_up(SENTENCES, 6, random.Random(0))
    assert [s.acceptable for s in added] == [True] * 6 + [False] * 6
    for text in (s.text for s in added[:6]):
        parts = [sentence for sentence in GOOD if sentence in text]
        assert len(parts) >= 2
        assert len(text) == sum(map(len, parts)) + len(parts) - 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30))
def test_matthews_is_the_correlation_of_two_binary_variables(pairs: list[tuple[bool, bool]]) -> None:
    actual, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    value = matthews(actual, predicted)
    if len(set(actual)) == 1 or len(set(predicted)) == 1:
        assert value == 0
    else:
        assert value == pytest.approx(np.corrcoef(actual, predicted)[0, 1])


def test_matthews_by_hand() -> None:
    actual = np.array([True, True, True, False, False])
    predicted = np.array([True, True, False, True, False])
    # 2 right, 1 missed, 1 wrong, 1 right not: (2 x 1 - 1 x 1) / sqrt(3 x 3 x 2 x 2)
    assert matthews(actual, predicted) == pytest.approx(1 / 6)
    low, high = matthews_interval(actual, predicted)
    assert -1 <= low < 1 / 6 < high <= 1


def test_best_threshold_of_equally_good_ones_is_nearest_to_one_half() -> None:
    actual = np.array([False, True, False, True, True, False])
    probability = np.array([0.47, 0.72, 0.37, 0.37, 0.47, 0.27])
    # 1 / sqrt(5) but for rounding, from 0.35 (3 right, 0 missed, 2 wrong) as from 0.5 (1 right, 2 missed, 0 wrong)
    assert best_threshold(actual, probability) == (pytest.approx(0.5), pytest.approx(1 / math.sqrt(5)))


def test_best_threshold_parts_the_classes() -> None:
    actual = np.array([False, False, True, True])
    threshold, value = best_threshold(actual, np.array([0.1, 0.62, 0.7, 0.9]))
    assert value == 1
    assert 0.62 < threshold <= 0.7


@pytest.mark.parametrize(
    ("table", "problem"),
    [({"train": "a", "test": "b", "depth": 2}, "unknown key 'depth'"), ({"train": "a"}, "the key 'test' is missing")],
)
def test_wrong_config(table: dict[str, object], problem: str) -> None:
    with pytest.raises(TrainingConfigError, match=problem):
        config_from_table(table, "[acceptability]")


def test_fit_learns_and_trains_only_the_top() -> None:
    torch.manual_seed(0)
    model = MiniLMClassifier(1)
    before = {name: value.clone() for name, value in model.named_parameters()}
    epochs = fit(model, CONFIG, SENTENCES, SENTENCES)
    assert epochs[-1].loss < epochs[0].loss
    best = max(epochs, key=lambda epoch: epoch.dev)
    assert best.dev > 0
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("bert.encoder.layer.5.", "head.")) for name in changed)


def test_fit_moves_the_threshold_to_one_half() -> None:
    torch.manual_seed(0)
    model = MiniLMClassifier(1)
    epochs = fit(model, replace(CONFIG, epochs=1), SENTENCES, SENTENCES)
    with torch.no_grad():
        encoded = model.tokenizer([s.text for s in SENTENCES], padding=True, return_tensors="pt")
        probability = model(encoded).softmax(-1)[:, 1].numpy()
    accepted = np.array([s.acceptable for s in SENTENCES])
    assert matthews(accepted, probability >= ACCEPTED) == pytest.approx(epochs[0].dev)


def test_a_config_trains_a_classifier_with_a_card(cola: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.training.acceptability_card._CHECKED_PROMPTS", 4)
    config = tmp_path / "c.toml"
    config.write_text(
        '[acceptability]\ntrain = "train.tsv"\ntest = "test.tsv"\ntuned_layers = 1\nepochs = 1\nbatch_size = 90\n'
    )
    folder = run_training(config, cola, tmp_path / "work", tmp_path / "out", lambda stage, share: None)
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["made_up"] == 2 * 68
    assert figures["trained_on"] == 450 + 2 * 68
    assert figures["accepted"].keys() == {
        *("prompts", "shuffled prompts", "paragraphs", "shuffled", "pieces", "repetition")
    }
    assert figures["test"]["n"] == 10
    assert f"**{figures['test']['matthews']:.3f}**" in (folder / "README.md").read_text()
    assert (folder / WEIGHTS).stat().st_size < 5_000_000  # a layer and a head, in 16 bits
    probability = load_minilm_classifier(folder).probabilities([s.text for s in SENTENCES])
    accepted = np.array([s.acceptable for s in SENTENCES])
    assert matthews(accepted, probability >= ACCEPTED) == pytest.approx(figures["test"]["matthews"])
    assert math.isfinite(figures["epochs"][0]["loss"])
