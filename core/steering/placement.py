"""Edits in place: at which positions, on which rows of a batch, and in the running thread alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

from jaxtyping import Bool, Int
from torch import Tensor

from core.errors import EditError
from core.models.language_model import LanguageModel
from core.steering.code_edits import Edit, Outcome
from core.text.chat_template import ROLES

# user, assistant: contents of their messages; what is generated in a chat is the assistant's
Positions = Literal["all", "content", "generated", "prompt", "special", "user", "assistant"]
# special tokens are left as they are, except where the whole layer is replaced or shifted
DEFAULT_POSITIONS: dict[str, Positions] = {
    "sae": "all", "clamp": "content", "swap": "content", "weight": "content", "add": "all", "vector": "all"
}  # fmt: skip


@dataclass(frozen=True)
class PlacedEdit:
    """An edit at its positions, on all rows of the batch or on some."""

    edit: Edit
    positions: Positions
    rows: Bool[Tensor, "prompt"] | None = None  # None: every row


def placed_edit(edit: Edit | None, positions: Positions | None = None) -> list[PlacedEdit]:
    """An edit at the positions asked for, or at its default ones; nothing for no edit."""
    return [] if edit is None else [PlacedEdit(edit, positions or DEFAULT_POSITIONS[edit.name])]


@dataclass
class Recorder:
    """What the edits of one forward pass did: counted always, explained where asked (a second decode a token)."""

    explain: bool = False
    placed: list[PlacedEdit] = field(default_factory=list)  # those that acted, in their order
    edited: list[Bool[Tensor, "prompt pos"]] = field(default_factory=list)  # tokens, one mask an edit
    outcomes: list[Outcome] = field(default_factory=list)  # of those tokens, where explained


def editable(
    positions: Positions,
    special: Bool[Tensor, "prompt pos"],
    generated: Bool[Tensor, "prompt pos"],
    attention: Bool[Tensor, "prompt pos"],
    roles: Int[Tensor, "prompt pos"] | None = None,
) -> Bool[Tensor, "prompt pos"]:
    """Which tokens of a forward pass an edit at these positions touches; never padding.

    Raises:
        EditError: no such positions, or positions of a role where there is no chat.
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
                f"positions '{positions}' need a chat model, and this one reads plain text; use content or prompt"
            )
    raise EditError(f"no positions '{positions}'; there are {', '.join(get_args(Positions))}")


def _apply(x: Tensor, placed: PlacedEdit, mask: Bool[Tensor, "prompt pos"], recorder: Recorder) -> None:
    """Edits the masked tokens of `x` in place, those of them that the edit is for."""
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
    """Forward passes of this thread run under the edits; several at one hook point act in the order given.

    Args:
        special, generated, attention, roles: of the tokens of this forward pass; roles as in `Tokens`.
        recorder: told what each edit did.
    """
    told = recorder if recorder is not None else Recorder()

    def intervention(edits: list[PlacedEdit]) -> Callable[[Tensor], Tensor]:
        def edit_all(x: Tensor) -> Tensor:
            out = x.clone()
            for p in edits:
                mask = editable(p.positions, special, generated, attention, roles)
                _apply(out, p, mask if p.rows is None else mask & p.rows[:, None], told)
            return out

        return edit_all

    by_hook: dict[str, list[PlacedEdit]] = {}
    for p in placed:
        by_hook.setdefault(p.edit.hook_name, []).append(p)
    with model.intervene({hook_name: intervention(edits) for hook_name, edits in by_hook.items()}):
        yield
