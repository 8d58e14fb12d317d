"""Block training, BT(P) and BT(F): texts are concatenated and cut into blocks of `context_size` tokens.

A block may hold the end of one text and the beginning of the next (FAST paper, Figure 2b). BT(P) uses plain text, BT(F)
conversations in their chat template; both are cut alike.
"""

import numpy as np
import torch
from jaxtyping import Int, UInt8

from core.errors import EmptyDatasetError
from core.training.encoded_texts import EncodedTexts, TrainingTokens


def cut_blocks(
    texts: EncodedTexts, context_size: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "block pos"], UInt8[np.ndarray, "block pos"]]:
    """Token ids and kinds of all whole blocks of the texts in random order; the remainder at the end is dropped.

    Raises:
        EmptyDatasetError: the texts have fewer tokens than one block.
    """
    ids, kinds = texts.gather(rng.permutation(len(texts)))
    n = len(ids) // context_size
    if n == 0:
        raise EmptyDatasetError(f"{len(ids)} tokens, fewer than one block of context_size {context_size}")
    shape, used = (n, context_size), n * context_size
    return ids[:used].reshape(shape), kinds[:used].reshape(shape)


class BlockBatches:
    """Batches of blocks; a batch depends only on its number and the seed.

    Every pass concatenates the texts in a new order, so its blocks are new.
    """

    def __init__(self, texts: EncodedTexts, *, context_size: int, blocks_per_batch: int, seed: int) -> None:
        self._texts, self._context_size, self._seed = texts, context_size, seed
        self._per_batch = blocks_per_batch
        self._pass = -1
        self._cut(0)

    def _cut(self, number: int) -> None:
        rng = np.random.default_rng([self._seed, number])
        self._ids, self._kinds = cut_blocks(self._texts, self._context_size, rng)
        self._pass = number

    @property
    def batches_in_first_pass(self) -> int:
        # every pass has the same number of blocks: the same tokens in another order
        return -(-len(self._ids) // self._per_batch)

    def describe(self) -> str:
        """The contents of one pass in words, for the card."""
        return f"{len(self._texts):,} documents, {len(self._ids):,} blocks in a pass{self._texts.left_out}"

    @property
    def duplicates(self) -> tuple[int, int]:
        """Conversations that deduplication dropped, and those that it read."""
        return self._texts.duplicates

    def batch(self, number: int) -> TrainingTokens:
        """The blocks of one forward pass [block pos]; all tokens that are not content count as special."""
        of_pass, place = divmod(number, self.batches_in_first_pass)
        if of_pass != self._pass:
            self._cut(of_pass)
        rows = slice(place * self._per_batch, (place + 1) * self._per_batch)
        ids = self._ids[rows]
        return TrainingTokens.of(ids, self._kinds[rows], torch.ones(ids.shape, dtype=torch.bool))
