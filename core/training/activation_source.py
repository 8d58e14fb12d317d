"""Activations for SAE training: batches of tokens run through the model up to its hook point."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.models.language_model import LanguageModel
from core.training.encoded_texts import TrainingTokens
from core.training.precision import Autocast, in_bfloat16
from core.training.shared_activations import KeptChunks

_PARTS = ("ids", "attention", "special", "role", "marker")  # the tensors of TrainingTokens


class TokenBatches(Protocol):
    """An endless series of token batches, by number, so that a resumed run gets the batches of an unbroken one."""

    @property
    def batches_in_first_pass(self) -> int: ...

    def batch(self, number: int) -> TrainingTokens: ...

    def describe(self) -> str: ...

    @property
    def duplicates(self) -> tuple[int, int]: ...


class ActivationSource:
    """Activations at one hook point, batch after batch."""

    def __init__(
        self,
        model: LanguageModel,
        hook_name: str,
        batches: TokenBatches,
        *,
        keep_special: bool,
        skip_first: bool = False,
        autocast: Autocast = False,
        kept: KeptChunks | None = None,
    ) -> None:
        """`keep_special` and `skip_first` as in `kept_positions`; `kept` holds chunks shared with other runs."""
        self.position = 0  # number of the next batch
        self._model, self._hook_name, self._batches = model, hook_name, batches
        self._keep_special, self._skip_first, self._kept = keep_special, skip_first, kept
        self._bfloat16 = in_bfloat16(autocast, model.device)

    @property
    def d_in(self) -> int:
        """Width of the activations, found by running one token through the model."""
        tokens = on_device(self._batches.batch(self.position), self._model.device)
        first = replace(tokens, **{part: getattr(tokens, part)[:1, :1] for part in _PARTS})
        return int(self._model.activations(first, self._hook_name).shape[-1])

    def next_chunk(self) -> Float[Tensor, "token d_in"]:
        """Activations of the next batch at the positions of `kept_positions`, in float32."""
        number = self.position
        self.position += 1
        if self._kept is None:
            return self._computed(number, [self._hook_name])[self._hook_name]
        return self._kept.chunk(number, self._hook_name, lambda hook_names: self._computed(number, hook_names))

    def _computed(self, number: int, hook_names: Sequence[str]) -> dict[str, Float[Tensor, "token d_in"]]:
        tokens = on_device(self._batches.batch(number), self._model.device)
        kept = kept_positions(tokens, self._keep_special, skip_first=self._skip_first)
        with torch.autocast(tokens.ids.device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            seen = self._model.activations_at(tokens, hook_names)
        return {name: x[kept].float() for name, x in seen.items()}


def kept_positions(
    tokens: TrainingTokens, keep_special: bool, *, skip_first: bool = False
) -> Bool[Tensor, "prompt pos"]:
    """Mask of the positions whose activations are used; padding never is.

    Args:
        keep_special: whether special tokens are used.
        skip_first: whether the first position of every sequence is left out.
    """
    kept = tokens.attention if keep_special else tokens.attention & ~tokens.special
    if skip_first:
        kept = kept.clone()
        kept[:, 0] = False
    return kept


def on_device(tokens: TrainingTokens, device: torch.device) -> TrainingTokens:
    """The same tokens on another device."""
    return replace(tokens, **{part: getattr(tokens, part).to(device) for part in _PARTS})
