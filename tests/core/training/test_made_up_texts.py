"""Paragraphs and gibberish to train the acceptability classifier on."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.training.made_up_texts import gibberish, paragraph

SENTENCES = ["An angry river ran.", "Salt and pepper mix.", "Nobody knows me."]
SEEDS = st.integers(0, 2**32)


def words_of(text: str) -> list[str]:
    return sorted(text.split())


@given(SEEDS)
def test_paragraph_has_each_sentence_once(seed: int) -> None:
    text = paragraph(SENTENCES, random.Random(seed))
    used = [sentence for sentence in SENTENCES if sentence in text]
    assert 2 <= len(used) <= 3
    assert words_of(text) == words_of(" ".join(used))


@given(SEEDS)
def test_shuffled_has_the_words_of_a_paragraph(seed: int) -> None:
    text = gibberish("shuffled", SENTENCES, random.Random(seed))
    assert words_of(text) == words_of(paragraph(SENTENCES, random.Random(seed)))


@given(SEEDS)
def test_pieces_are_cut_out_of_words(seed: int) -> None:
    text = gibberish("pieces", ["anger anger.", "anger"], random.Random(seed))
    assert set(text) <= set("anger. ")
    assert not text.startswith(" ")
    assert 2 * 4 <= len(text.replace(" ", "")) <= 5 * 40


@given(SEEDS)
def test_repetition_is_the_same_words_in_turn(seed: int) -> None:
    words = gibberish("repetition", SENTENCES, random.Random(seed)).split()
    period = len(set(words))
    assert 4 <= len(words) <= 40
    assert 1 <= period <= 3
    assert all(word == words[i % period] for i, word in enumerate(words))


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no gibberish 'noise'; there are shuffled, pieces, repetition"):
        gibberish("noise", SENTENCES, random.Random(0))
