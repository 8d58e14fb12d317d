"""Deduplication against sets of word tuples, and the compact hash set against Python's own."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import TrainingConfigError
from core.training.deduplication import Deduplicator, HashSet, gram_hashes

Messages = list[dict[str, str]]


def brute_force(conversations: list[Messages], n: int) -> list[bool]:
    """Algorithm 1 with sets of tuples of words."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for messages in conversations:
        words = " ".join(m["content"] for m in messages).lower().split()
        grams = {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}
        kept.append(not grams & seen)
        if kept[-1]:
            seen |= grams
    return kept


def conversation(words: list[str], rng: random.Random) -> Messages:
    cut = rng.randint(0, len(words))
    return [
        {"role": "user", "content": " ".join(words[:cut])},
        {"role": "assistant", "content": "\n".join(words[cut:])},
    ]


def conversations_with_planted_repeats(n: int, seed: int) -> list[Messages]:
    """Random word lists; a third repeat a run of an earlier one, of 12 to 30 words, some in capitals, some whole."""
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(50)]
    texts: list[list[str]] = []
    for _ in range(n):
        words = rng.choices(vocabulary, k=rng.randint(0, 80))
        if texts and rng.random() < 1 / 3:
            source = rng.choice(texts)
            start, length = rng.randrange(len(source) + 1), rng.randint(12, 30)
            run = source if rng.random() < 0.2 else source[start : start + length]
            at = rng.randint(0, len(words))
            words = words[:at] + [w.upper() if rng.random() < 0.1 else w for w in run] + words[at:]
        texts.append(words)
    return [conversation(words, rng) for words in texts]


def test_deduplication_equals_brute_force_on_2000_conversations() -> None:
    conversations = conversations_with_planted_repeats(2_000, seed=1)
    deduplicator = Deduplicator()
    kept = [deduplicator.is_new(c) for c in conversations]
    assert kept == brute_force(conversations, 20)
    assert 100 < kept.count(False) < 1_000  # both outcomes are there


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8), max_size=12), st.integers(1, 5))
def test_deduplication_equals_brute_force_on_short_texts(texts: list[list[str]], n: int) -> None:
    conversations = [[{"role": "user", "content": " ".join(text)}] for text in texts]
    deduplicator = Deduplicator(n)
    assert [deduplicator.is_new(c) for c in conversations] == brute_force(conversations, n)


def test_dropped_conversation_adds_no_grams() -> None:
    deduplicator = Deduplicator(2)
    texts = ["a b c", "b c d e", "d e f"]
    assert [deduplicator.is_new([{"content": text}]) for text in texts] == [True, False, True]


def test_repeat_within_one_conversation_is_none() -> None:
    assert Deduplicator(2).is_new([{"content": "a b a b a b"}])


def test_short_text_is_one_gram() -> None:
    deduplicator = Deduplicator(20)
    texts = ["hello there", "Hello  THERE", "hello there friend"]
    assert [deduplicator.is_new([{"content": text}]) for text in texts] == [True, False, True]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(1, 2**64 - 1) | st.integers(1, 9), max_size=20), max_size=20))
def test_hash_set_equals_a_set(batches: list[list[int]]) -> None:
    ours, theirs = HashSet(2**20), set[int]()
    for batch in batches:
        hashes = np.array(batch, dtype=np.uint64)
        assert ours.has_any(hashes) == bool(theirs & set(batch))
        ours.add(hashes[[h not in theirs for h in batch]])
        theirs |= set(batch)
        assert len(ours) == len(theirs)


def test_hash_set_grows_and_finds_everything() -> None:
    values = np.random.default_rng(0).integers(1, 2**64 - 1, size=200_000, dtype=np.uint64)
    hash_set = HashSet(2**23)
    for part in np.array_split(values, 50):
        hash_set.add(part)
    assert all(hash_set.has_any(values[i : i + 1]) for i in range(0, len(values), 997))
    assert not hash_set.has_any(np.arange(1, 1_000, dtype=np.uint64))


def test_hash_set_stays_within_its_memory() -> None:
    hash_set = HashSet(2**20)
    for i in range(45):
        hash_set.add(np.arange(1 + 1_000 * i, 1_001 + 1_000 * i, dtype=np.uint64))
    with pytest.raises(TrainingConfigError, match=r"holds 45,000 n-grams .* raise deduplication_mb"):
        hash_set.add(np.arange(100_000, 101_000, dtype=np.uint64))
    assert hash_set.has_any(np.array([45_000], dtype=np.uint64))


def test_gram_hashes_tell_order_and_length() -> None:
    assert gram_hashes(["a", "b"], 2) != gram_hashes(["b", "a"], 2)
    assert len(gram_hashes(["a", "b", "c"], 2)) == 2
