"""Blocks: every token of a pass once, in order; new blocks every pass; by seed and number alone."""

import numpy as np
import pytest
import torch

from core.errors import EmptyDatasetError
from core.training.blocks import BlockBatches, cut_blocks
from core.training.encoded_texts import CONTENT, TEMPLATE, EncodedTexts


def numbered_texts(lengths: list[int]) -> EncodedTexts:
    """Texts whose ids count up over all of them; the last token of each is special."""

    def pairs():
        start = 0
        for n in lengths:
            kinds = np.full(n, CONTENT, dtype=np.uint8)
            kinds[-1] = TEMPLATE
            yield np.arange(start, start + n, dtype=np.uint16), kinds
            start += n

    return EncodedTexts.join(pairs(), "test")


def test_blocks_are_the_concatenated_texts_cut_up() -> None:
    texts = numbered_texts([3, 5, 2, 7])
    ids, kinds = cut_blocks(texts, 4, np.random.default_rng(0))
    assert ids.shape == (4, 4)  # 17 tokens, one left over
    stream, expected_kinds = texts.gather(np.random.default_rng(0).permutation(4))
    assert ids.ravel().tolist() == stream[:16].tolist()
    assert kinds.ravel().tolist() == expected_kinds[:16].tolist()
    inside = np.diff(ids.ravel().astype(int)) == 1
    assert (inside | (kinds.ravel()[:-1] == TEMPLATE)).all()  # ids jump only behind the end of a text


def test_every_pass_has_the_same_tokens_in_new_blocks() -> None:
    texts = numbered_texts([4] * 10)
    batches = BlockBatches(texts, context_size=4, blocks_per_batch=3, seed=0)
    assert batches.batches_in_first_pass == 4
    assert batches.describe() == "10 documents, 10 blocks in a pass"
    passes = [torch.cat([batches.batch(4 * p + i).ids for i in range(4)]) for p in range(2)]
    for blocks in passes:
        assert sorted(blocks.flatten().tolist()) == list(range(40))
    assert not torch.equal(*passes)


def test_batch_depends_on_seed_and_number_alone() -> None:
    texts = numbered_texts([5, 9, 3, 8, 6])
    batches = BlockBatches(texts, context_size=4, blocks_per_batch=2, seed=7)
    forward = [batches.batch(i).ids for i in range(12)]
    for i in (11, 2, 7):
        assert torch.equal(BlockBatches(texts, context_size=4, blocks_per_batch=2, seed=7).batch(i).ids, forward[i])
        assert torch.equal(batches.batch(i).ids, forward[i])
    assert not torch.equal(BlockBatches(texts, context_size=4, blocks_per_batch=2, seed=8).batch(0).ids, forward[0])


def test_ends_of_texts_are_special_and_nothing_else() -> None:
    batches = BlockBatches(numbered_texts([4] * 6), context_size=4, blocks_per_batch=6, seed=0)
    tokens = batches.batch(0)
    assert torch.equal(tokens.special, tokens.ids % 4 == 3)
    assert tokens.attention.all()
    assert not tokens.role.any()


def test_too_little_text_for_a_block_is_refused() -> None:
    with pytest.raises(EmptyDatasetError, match="9 tokens, fewer than one block of context_size 16"):
        BlockBatches(numbered_texts([4, 5]), context_size=16, blocks_per_batch=1, seed=0)
