"""Applies edits while a model runs: at chosen positions, on chosen rows of a batch, and only in this thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import get_args

from jaxtyping import Bool, Int
from torch import Tensor

from core.errors import EditError
from core.models.language_model import LanguageModel
from core.steering.code_edits import Edit, Outcome
from core.steering.settings import Positions
from core.text.chat_template import ROLES

# user, assistant: the contents of their messages; generated tokens of a chat belong to the assistant
# only edits that replace or shift the whole layer touch special tokens by default
DEFAULT_POSITIONS: dict[str, Positions] = {
    "sae": "all", "clamp": "content", "swap": "content", "weight": "content", "add": "all", "vector": "all"
}  # fmt: skip


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


def _apply(x: Tensor, placed: PlacedEdit, mask: Bool[Tensor, "prompt pos"], recorder: Recorder) -> None:
    """Edits `x` [prompt pos d_in] in place, at those of the masked tokens that the edit acts on."""
    if not mask.any():
        return
    acts = placed.edit.acts_on(x[mask])
    if acts is not None:
        mask = mask.masked_scatter(mask, acts)
        if not acts.any():
            return
    recorder.placed.append(placed)
    recorder.edited.append(mask)
    if recorder.explain:
        outcome = placed.edit.explain(x[mask])
        recorder.outcomes.append(outcome)
        x[mask] = outcome.edited
    else:
        x[mask] = placed.edit.apply(x[mask])


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
            out = x.clone()
            for p in edits:
                mask = editable(p.positions, special, generated, attention, roles)
                mask = mask & ~first if p.edit.leaves_first else mask
                _apply(out, p, mask if p.rows is None else mask & p.rows[:, None], told)
            return out

        return edit_all

    by_hook: dict[str, list[PlacedEdit]] = {}
    for p in placed:
        by_hook.setdefault(p.edit.hook_name, []).append(p)
    with model.intervene({hook_name: intervention(edits) for hook_name, edits in by_hook.items()}):
        yield
