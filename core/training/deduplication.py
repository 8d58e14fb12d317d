"""N-gram deduplication of conversations in one pass and bounded memory (FAST paper, Algorithm 1; details ours).

Words are what whitespace separates in the lower-cased contents of the messages. A conversation that shares an n-gram
with an earlier kept one is dropped, and only kept ones add their n-grams. A text shorter than n words is one gram.
N-grams are remembered as 64-bit hashes: with a billion of them, about one new n-gram in twenty billion is mistaken for
a known one.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import UInt64

from core.errors import TrainingConfigError

N_GRAM = 20
_EMPTY = np.uint64(0)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplication modulo 2^64 is one to one
_FIRST_SLOTS = 2**16
_FULL = 0.7  # share of taken slots above which probing gets slow


class HashSet:
    """A set of non-zero 64-bit hashes: one flat table, 8 bytes per slot, searched by linear probing."""

    def __init__(self, max_bytes: int) -> None:
        """The table doubles as it fills, up to `max_bytes`, including the copy made while it grows."""
        self._max_slots = max(_FIRST_SLOTS, max_bytes // 12)
        self._slots = np.zeros(_FIRST_SLOTS, dtype=np.uint64)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def has_any(self, hashes: UInt64[np.ndarray, "gram"]) -> bool:
        """Whether at least one of the hashes is in the set."""
        places = self._home(hashes)
        while len(hashes):
            there = self._slots[places]
            if (there == hashes).any():
                return True
            on = there != _EMPTY
            hashes, places = hashes[on], self._next(places[on])
        return False

    def add(self, hashes: UInt64[np.ndarray, "gram"]) -> None:
        """Adds hashes that are not in the set yet; repeats among them count once.

        Raises:
            TrainingConfigError: the set has reached its largest size.
        """
        hashes = np.unique(hashes)
        while self._n + len(hashes) > _FULL * len(self._slots):
            self._grow()
        self._insert(hashes)
        self._n += len(hashes)

    def _home(self, hashes: UInt64[np.ndarray, "gram"]) -> np.ndarray:
        return (hashes & np.uint64(len(self._slots) - 1)).astype(np.int64)

    def _next(self, places: np.ndarray) -> np.ndarray:
        return (places + 1) & (len(self._slots) - 1)

    def _insert(self, hashes: UInt64[np.ndarray, "gram"]) -> None:
        places = self._home(hashes)
        while len(hashes):
            free = self._slots[places] == _EMPTY
            self._slots[places[free]] = hashes[free]  # if several hashes claim one slot, the last stays
            on = self._slots[places] != hashes
            hashes, places = hashes[on], self._next(places[on])

    def _grow(self) -> None:
        if 2 * len(self._slots) > self._max_slots:
            raise TrainingConfigError(
                f"deduplication holds {self._n:,} n-grams and may use no more memory; raise deduplication_mb, or train "
                f"on fewer conversations"
            )
        taken = self._slots[self._slots != _EMPTY]
        self._slots = np.zeros(2 * len(self._slots), dtype=np.uint64)
        self._insert(taken)


class Deduplicator:
    """Decides, one conversation after another, which to keep."""

    def __init__(self, n: int = N_GRAM, *, max_bytes: int = 2**30) -> None:
        self._n, self._seen = n, HashSet(max_bytes)
        self.read = self.dropped = 0  # conversations that were asked about, and those that were not new

    def is_new(self, messages: Sequence[Mapping[str, str]]) -> bool:
        """Whether the conversation shares no n-gram with a kept one; if so, remembers its n-grams."""
        hashes = gram_hashes(words(messages), self._n)
        self.read += 1
        if self._seen.has_any(hashes):
            self.dropped += 1
            return False
        self._seen.add(hashes)
        return True


def words(messages: Sequence[Mapping[str, str]]) -> list[str]:
    """The words by which conversations are compared: lower-cased and separated by whitespace."""
    return " ".join(message["content"] for message in messages).lower().split()


@lru_cache(maxsize=2**20)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def gram_hashes(of_words: Sequence[str], n: int) -> UInt64[np.ndarray, "gram"]:
    """Hashes of every run of n words, in order; a shorter text gives one hash of all its words."""
    word_hashes = np.fromiter(map(_word_hash, of_words), dtype=np.uint64, count=len(of_words))
    n = min(n, len(of_words))
    grams = np.full(len(of_words) - n + 1, n, dtype=np.uint64)  # the length is hashed along with the words
    for offset in range(n):
        grams = grams * _BASE + word_hashes[offset : offset + len(grams)]
    grams ^= grams >> np.uint64(32)  # the table is addressed by the low bits
    grams *= _BASE
    grams ^= grams >> np.uint64(29)
    return np.where(grams == _EMPTY, np.uint64(1), grams)
