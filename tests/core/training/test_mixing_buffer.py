"""The mixing buffer: every activation at most once, never more than its size, exact resumption."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.errors import TrainingConfigError
from core.training.mixing_buffer import MixingBuffer


class Numbers:
    """A source whose rows are 0, 1, 2 ...; chunks of the given sizes, over and over."""

    def __init__(self, chunk_sizes: list[int]) -> None:
        self.sizes, self.chunks, self.rows = chunk_sizes, 0, 0

    def next_chunk(self) -> Tensor:
        n = self.sizes[self.chunks % len(self.sizes)]
        self.chunks += 1
        self.rows += n
        return torch.arange(self.rows - n, self.rows, dtype=torch.float32)[:, None]


def buffer_on(next_chunk: Callable[[], Tensor], size: int = 16, batch_size: int = 4) -> MixingBuffer:
    return MixingBuffer(next_chunk, size=size, batch_size=batch_size, d_in=1, seed=3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 30))
def test_buffer_serves_each_activation_at_most_once(sizes: list[int], batch: int, halves: int, n_batches: int) -> None:
    source = Numbers(sizes)
    size = 2 * batch * halves
    buffer = buffer_on(source.next_chunk, size, batch)
    served = torch.cat([next(buffer) for _ in range(n_batches)])[:, 0].tolist()
    assert len(served) == n_batches * batch
    assert len(set(served)) == len(served)
    # what was brought and not served lies in the buffer or waits outside it
    assert source.rows - len(served) <= size + max(sizes)


def test_buffer_refills_only_when_half_of_it_is_served() -> None:
    source = Numbers([1])
    buffer = buffer_on(source.next_chunk)
    brought = []
    for _ in range(5):
        next(buffer)
        brought.append(source.rows)
    assert brought == [16, 16, 24, 24, 32]


def test_buffer_never_holds_more_than_its_size() -> None:
    source = Numbers([7])
    buffer = buffer_on(source.next_chunk)
    for _ in range(20):
        next(buffer)
        state = buffer.state_dict()
        assert state["rows"].shape == (16, 1)
        assert len(state["waiting"]) < 7


def test_buffer_mixes_old_with_new() -> None:
    buffer = buffer_on(Numbers([8]).next_chunk, size=64, batch_size=32)
    first, second = next(buffer)[:, 0], next(buffer)[:, 0]
    assert (second < 64).any()
    assert (second >= 64).any()
    assert not torch.equal(first, first.sort().values)


def test_sample_takes_nothing_away() -> None:
    buffer = buffer_on(Numbers([5]).next_chunk)
    sample = buffer.sample(6).clone()
    assert torch.equal(torch.cat([next(buffer), next(buffer)])[:6], sample)


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 7])
def test_buffer_continues_exactly_from_its_state(stop: int) -> None:
    source = Numbers([7, 3])
    buffer = buffer_on(source.next_chunk)
    for _ in range(stop):
        next(buffer)
    state = {name: tensor.clone() for name, tensor in buffer.state_dict().items()}
    later = Numbers([7, 3])
    later.chunks, later.rows = source.chunks, source.rows
    resumed = MixingBuffer(later.next_chunk, size=16, batch_size=4, d_in=1, seed=99)
    resumed.load_state_dict(state)
    for _ in range(9):
        assert torch.equal(next(buffer), next(resumed))


def test_buffer_refuses_a_size_that_is_no_whole_number_of_batches() -> None:
    with pytest.raises(TrainingConfigError, match=r"multiple of twice batch_size \(8\).* it is 20"):
        buffer_on(Numbers([1]).next_chunk, size=20)
