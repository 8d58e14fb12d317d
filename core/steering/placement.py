"""Applies edits while a model runs: at chosen positions, on chosen rows of a batch, and only in this thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.errors import EditError
from core.models.codes import Encoding
from core.models.language_model import LanguageModel
from core.steering.code_edits import Edit, Outcome
from core.steering.settings import Positions
from core.text.chat_template import ROLES

# user, assistant: the contents of their messages; generated tokens of a chat belong to the assistant
# only edits that replace or shift the whole layer touch special tokens by default
DEFAULT_POSITIONS: dict[str, Positions] = {
    "sae": "all", "clamp": "content", "swap": "content", "weight": "content", "add": "all", "vector": "all"
}  # fmt: skip

_SHARED_TOKENS = 64  # edits side by side share one encoding of at most so many tokens


@dataclass(frozen=True)
class PlacedEdit:
    """An edit, with the positions and the rows of the batch where it acts."""

    edit: Edit
    positions: Positions
    rows: Bool[Tensor, "prompt"] | None = None  # None: every row


def placed_edit(edit: Edit | None, positions: Positions | None = None) -> list[PlacedEdit]:
    """Places an edit at the given positions, or at its default ones; an empty list if there is no edit."""
    return [] if edit is None else [PlacedEdit(edit, positions or DEFAULT_POSITIONS[edit.name])]


@dataclass
class Recorder:
    """Which tokens the edits of one forward pass changed; with `explain` also how, at a second decode per token."""

    explain: bool = False
    placed: list[PlacedEdit] = field(default_factory=list)  # the edits that acted, in order
    edited: list[Bool[Tensor, "prompt pos"]] = field(default_factory=list)  # mask of the tokens, one per edit
    outcomes: list[Outcome] = field(default_factory=list)  # of those tokens, one per edit; only with `explain`


def editable(
    positions: Positions,
    special: Bool[Tensor, "prompt pos"],
    generated: Bool[Tensor, "prompt pos"],
    attention: Bool[Tensor, "prompt pos"],
    roles: Int[Tensor, "prompt pos"] | None = None,
) -> Bool[Tensor, "prompt pos"]:
    """Mask of the tokens of a forward pass that an edit at these positions may change; never padding.

    Raises:
        EditError: unknown positions, or those of a role outside a chat.
    """
    match positions:
        case "all":
            return attention
        case "content":
            return attention & ~special
        case "generated":
            return attention & generated
        case "prompt":
            return attention & ~generated & ~special
        case "special":
            return attention & special
        case "user" | "assistant" if roles is not None:
            return attention & (roles == ROLES[positions])
        case "user" | "assistant":
            raise EditError(
                f"positions '{positions}' need a chat, and this prompt is plain text; generate as a chat or use "
                "content or prompt"
            )
    raise EditError(f"no positions '{positions}'; there are {', '.join(get_args(Positions))}")


def _encode_together(
    x: Float[Tensor, "prompt pos d_in"], placed: Sequence[PlacedEdit], masks: Sequence[Bool[Tensor, "prompt pos"]]
) -> list[Encoding | None]:
    """The encoding of each edit's tokens, by one product for edits side by side that share an SAE.

    None: the edit encodes for itself, since it is alone, acts after another one, or has many tokens. While text is
    generated there is one token a row, and reading the encoder's weights is nearly all that an encoding costs.
    """
    users = [i for i, p in enumerate(placed) if p.edit.sae_used is not None]
    saes = {id(placed[i].edit.sae_used): placed[i].edit.sae_used for i in users}
    times = torch.stack(list(masks)).sum(0)  # how many edits act on each token
    found: list[Encoding | None] = [None] * len(placed)
    if len(users) < 2 or len(saes) != 1 or times.max() > 1 or times.sum() > _SHARED_TOKENS:
        return found
    (sae,) = saes.values()
    assert sae is not None
    union = torch.stack([masks[i] for i in users]).any(0)
    together = sae.encoding(x[union])
    for i in users:
        found[i] = together.of(masks[i][union])
    return found


def _apply(
    x: Tensor, placed: PlacedEdit, mask: Bool[Tensor, "prompt pos"], encoding: Encoding | None, recorder: Recorder
) -> None:
    """Edits `x` [prompt pos d_in] in place, at those of the masked tokens that the edit acts on."""
    if not mask.any():
        return
    acts = placed.edit.acts_on(x[mask])
    if acts is not None:
        mask = mask.masked_scatter(mask, acts)
        encoding = None if encoding is None else encoding.of(acts)
        if not acts.any():
            return
    recorder.placed.append(placed)
    recorder.edited.append(mask)
    if recorder.explain:
        outcome = placed.edit.explain(x[mask], encoding)
        recorder.outcomes.append(outcome)
        x[mask] = outcome.edited
    else:
        x[mask] = placed.edit.apply(x[mask], encoding)


@contextmanager
def steered(
    model: LanguageModel,
    placed: Sequence[PlacedEdit],
    *,
    special: Bool[Tensor, "prompt pos"],
    generated: Bool[Tensor, "prompt pos"],
    attention: Bool[Tensor, "prompt pos"],
    roles: Int[Tensor, "prompt pos"] | None = None,
    recorder: Recorder | None = None,
) -> Iterator[None]:
    """Runs this thread's forward passes under the edits; edits at one hook point act in the order given.

    Args:
        special, generated, attention: masks of the tokens of this forward pass.
        roles: as in `Tokens`.
        recorder: records what each edit did.
    """
    told = recorder if recorder is not None else Recorder()
    first = attention & ~generated & (attention.long().cumsum(-1) == 1)

    def intervention(edits: list[PlacedEdit]) -> Callable[[Tensor], Tensor]:
        def edit_all(x: Tensor) -> Tensor:
            out, masks = x.clone(), []
            for p in edits:
                mask = editable(p.positions, special, generated, attention, roles)
                mask = mask & ~first if p.edit.leaves_first else mask
                masks.append(mask if p.rows is None else mask & p.rows[:, None])
            for p, mask, encoding in zip(edits, masks, _encode_together(x, edits, masks), strict=True):
                _apply(out, p, mask, encoding, told)
            return out

        return edit_all

    by_hook: dict[str, list[PlacedEdit]] = {}
    for p in placed:
        by_hook.setdefault(p.edit.hook_name, []).append(p)
    with model.intervene({hook_name: intervention(edits) for hook_name, edits in by_hook.items()}):
        yield
