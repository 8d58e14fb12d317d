"""The mixing buffer: fill, shuffle, train on half, refill, repeat (FAST paper, section 3.3)."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import TrainingConfigError


class MixingBuffer(Iterator[Tensor]):
    """Serves shuffled batches of activations from a buffer of fixed size.

    The buffer is allocated once. Served rows are overwritten in place, and a permutation gives the order of serving, so
    shuffling copies nothing. Rows of the latest chunk that did not fit wait in `_waiting`.
    """

    def __init__(
        self,
        next_chunk: Callable[[], Float[Tensor, "token d_in"]],
        *,
        size: int,
        batch_size: int,
        d_in: int,
        seed: int,
        device: str = "cpu",
    ) -> None:
        """A buffer of `size` activations, served `batch_size` at a time; `next_chunk` supplies more without end.

        Raises:
            TrainingConfigError: half the buffer is not a whole number of batches.
        """
        if size % (2 * batch_size) or size <= 0:
            raise TrainingConfigError(
                f"buffer_size must be a multiple of twice batch_size ({2 * batch_size}), as half of it is trained on "
                f"before each refill; it is {size}"
            )
        self.size, self.batch_size = size, batch_size
        self._next_chunk = next_chunk
        self._rows = torch.empty(size, d_in, device=device)
        self._order = torch.arange(size)  # rows in the order in which they are served
        self._served = size  # how many of `_order` have been served; initially all, so that all are filled
        self._filled = False
        self._waiting = torch.empty(0, d_in, device=device)
        self._generator = torch.Generator().manual_seed(seed)

    def __next__(self) -> Float[Tensor, "batch d_in"]:
        if not self._filled or self._served == self.size // 2:
            self._refill()
        batch = self._rows[self._order[self._served : self._served + self.batch_size]]
        self._served += self.batch_size
        return batch

    def _refill(self) -> None:
        """Overwrites the served rows with new activations and draws a new order."""
        free = self._order[: self._served]
        done = 0
        while done < len(free):
            if len(self._waiting) == 0:
                self._waiting = self._next_chunk()
            taken = self._waiting[: len(free) - done]
            self._rows[free[done : done + len(taken)]] = taken.to(self._rows)
            self._waiting = self._waiting[len(taken) :]
            done += len(taken)
        self._order = torch.randperm(self.size, generator=self._generator)
        self._served, self._filled = 0, True

    def sample(self, n: int) -> Float[Tensor, "token d_in"]:
        """At most `n` of the activations to be served next; they remain to be served."""
        if not self._filled:
            self._refill()
        return self._rows[self._order[self._served : self._served + n]]

    def state_dict(self) -> dict[str, Tensor]:
        """The buffer's state without the source's position; save it before the next batch, as it shares memory."""
        return {
            "rows": self._rows.contiguous(),
            "order": self._order.contiguous(),
            "served": torch.tensor([self._served, int(self._filled)]),
            "waiting": self._waiting.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores a state, so that serving continues exactly where `state_dict` was taken."""
        self._rows.copy_(state["rows"])
        self._order = state["order"].cpu()
        self._served, self._filled = int(state["served"][0]), bool(state["served"][1])
        self._waiting = state["waiting"].to(self._rows.device)
        self._generator.set_state(state["generator"].cpu())
