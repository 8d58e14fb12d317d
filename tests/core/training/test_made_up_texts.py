"""Gibberish and paragraphs to train the acceptability classifier on."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.training.made_up_texts import gibberish, paragraph, vocabulary_of

WORDS = ["anger", "pepper", "salt", "river"]
SEEDS = st.integers(0, 2**32)


def test_vocabulary_has_words_of_three_letters_and_more_once() -> None:
    assert vocabulary_of(["The cat, it sat.", "(The) cat's 42 'hats'!"]) == ["cat", "hats", "sat", "the"]


@given(SEEDS)
def test_pieces_are_cut_out_of_words(seed: int) -> None:
    text = gibberish("pieces", ["anger"], random.Random(seed))
    assert set(text) <= set("anger ")
    assert not text.startswith(" ")
    assert 2 * 4 <= len(text.replace(" ", "")) <= 5 * 50


@given(SEEDS)
def test_repetition_is_the_same_words_in_turn(seed: int) -> None:
    words = gibberish("repetition", WORDS, random.Random(seed)).split()
    period = len(set(words))
    assert 4 <= len(words) <= 50
    assert 1 <= period <= 3
    assert all(word == words[i % period] for i, word in enumerate(words))


@given(SEEDS)
def test_words_are_the_vocabulary_s(seed: int) -> None:
    words = gibberish("words", WORDS, random.Random(seed)).split()
    assert 4 <= len(words) <= 50
    assert set(words) <= set(WORDS)


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no gibberish 'noise'; there are pieces, repetition, words"):
        gibberish("noise", WORDS, random.Random(0))


@given(SEEDS)
def test_paragraph_has_each_sentence_once(seed: int) -> None:
    sentences = ["One.", "Two.", "Three."]
    parts = paragraph(sentences, random.Random(seed)).split()
    assert 2 <= len(parts) <= 3
    assert len(set(parts)) == len(parts)
    assert set(parts) <= set(sentences)
