"""Training of the acceptability probe: CoLA's format, its correlation, and a run on a few sentences."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import MissingFileError, PromptFileError, TrainingConfigError
from core.models.acceptability import ACCEPTED, load_probe
from core.training.acceptability import AcceptabilityConfig, Examples, config_from_table, fit
from core.training.cola import Sentence, best_threshold, folds, made_up, matthews, matthews_interval, read_cola
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
CONFIG = AcceptabilityConfig(train="train.tsv", test="test.tsv", folds=2, weight_decays=[0.01, 1.0])


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


def test_neighbouring_sentences_are_held_back_together() -> None:
    fold = folds(1_020, 4)
    assert fold[:200].tolist() == [0] * 50 + [1] * 50 + [2] * 50 + [3] * 50
    assert fold[200] == 0
    assert fold[1_000:].tolist() == [0] * 20


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


def examples(n: int, seed: int) -> Examples:
    """Texts of three features, of which only the first, measured in thousands, tells the acceptable ones; one in five
    is labelled at random."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 3)).astype(np.float32) * np.array([1_000, 1, 0.01], dtype=np.float32)
    return Examples(features, np.where(rng.random(n) < 0.2, rng.random(n) < 0.7, features[:, 0] > -400))


def test_fit_finds_what_tells_them_apart_and_moves_the_threshold_to_one_half() -> None:
    known, added = examples(1_000, 0), examples(50, 1)
    probe, tried = fit(CONFIG, known, added)
    assert [one.weight_decay for one in tried] == [0.01, 1.0]
    assert (probe.setup, probe.blocks) == (CONFIG.setup, (14, 18))
    best = max(tried, key=lambda one: one.matthews)
    assert 0.6 < best.matthews < 0.95
    fresh = examples(2_000, 2)
    accepted = probe.probabilities(fresh.features) >= ACCEPTED
    assert matthews(fresh.acceptable, accepted) == pytest.approx(best.matthews, abs=0.1)
    share = probe.weight * known.features.std(0)
    assert share[0] > 10 * abs(share[1:]).max()


def test_no_fold_is_judged_by_a_probe_that_saw_it() -> None:
    # the second feature marks every sentence's own block: a probe that had seen it would be right each time
    rng = np.random.default_rng(0)
    acceptable = np.repeat(rng.random(40) < 0.5, 50)
    features = np.eye(40, dtype=np.float32)[np.arange(2_000) // 50]
    none = Examples(np.zeros((0, 40), dtype=np.float32), np.zeros(0, dtype=bool))
    _, tried = fit(CONFIG, Examples(features, acceptable), none)
    assert max(one.matthews for one in tried) < 0.3


def test_a_config_trains_a_probe_with_a_card(
    cola: Path, user_setups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.training.acceptability_card._CHECKED_PROMPTS", 4)
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(user_setups))
    config = tmp_path / "c.toml"
    keys = 'train = "train.tsv"\ntest = "test.tsv"\nsetup = "gpt2-topk"\nblocks = [0, 2]\nfolds = 2\n'
    config.write_text(f"[acceptability]\n{keys}")
    folder = run_training(config, cola, tmp_path / "work", tmp_path / "out", lambda stage, share: None)
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["made_up"] == 2 * 75
    assert figures["trained_on"] == 500 + 2 * 75
    assert figures["accepted"].keys() == {
        *("prompts", "shuffled prompts", "paragraphs", "shuffled", "pieces", "repetition")
    }
    assert figures["test"]["n"] == 10
    assert f"**{figures['test']['matthews']:.3f}**" in (folder / "README.md").read_text()
    probability = load_probe(folder).probabilities([s.text for s in SENTENCES])
    accepted = np.array([s.acceptable for s in SENTENCES])
    assert matthews(accepted, probability >= ACCEPTED) == pytest.approx(figures["test"]["matthews"])
    assert figures["test"]["matthews"] == 1  # the ten sentences of the training file
    config.write_text(f"[acceptability]\n{keys.replace('[0, 2]', '[3]')}")
    with pytest.raises(TrainingConfigError, match="blocks has 3, but the model of 'gpt2-topk' has 0 to 2"):
        run_training(config, cola, tmp_path / "work", tmp_path / "out", lambda stage, share: None)
