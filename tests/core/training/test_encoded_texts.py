"""Encoded texts: what is saved is what is loaded, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from core.errors import EmptyDatasetError
from core.training.encoded_texts import EncodedTexts

PAIRS = [(np.array(ids, dtype=np.uint16), np.zeros(len(ids), dtype=np.uint8)) for ids in ([5, 6, 7], [], [8, 9])]


def test_join_leaves_out_empty_texts() -> None:
    texts = EncodedTexts.join(iter(PAIRS), "test")
    assert texts.starts.tolist() == [0, 3, 5]
    assert (len(texts), texts.n_tokens) == (2, 5)


def test_gather_concatenates_in_the_given_order() -> None:
    ids, kinds = EncodedTexts.join(iter(PAIRS), "test").gather(np.array([1, 0]))
    assert ids.tolist() == [8, 9, 5, 6, 7]
    assert len(kinds) == 5


def test_saved_texts_are_loaded_from_a_map(tmp_path: Path) -> None:
    texts = EncodedTexts.join(iter(PAIRS), "test")
    texts.save(tmp_path / "t")
    loaded = EncodedTexts.load(tmp_path / "t")
    assert isinstance(loaded.ids, np.memmap)
    for part in ("ids", "kinds", "starts"):
        assert np.array_equal(getattr(loaded, part), getattr(texts, part))
    assert not (tmp_path / "t.partial").exists()


def test_interrupted_saving_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, array: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    texts = EncodedTexts.join(iter(PAIRS), "test")
    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        texts.save(tmp_path / "t")
    assert not (tmp_path / "t").exists()
    monkeypatch.undo()
    texts.save(tmp_path / "t")  # what was left half-written is no obstacle
    assert len(EncodedTexts.load(tmp_path / "t")) == 2


def test_no_texts_are_refused() -> None:
    with pytest.raises(EmptyDatasetError, match="nothing to train on: no text in x"):
        EncodedTexts.join(iter(PAIRS[1:2]), "no text in x")
