"""Ways of steering: named combinations of placed edits and a prefix before the prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from core.steering.code_edits import Edit
from core.steering.placement import PlacedEdit, placed_edit
from core.steering.settings import Positions


@dataclass(frozen=True)
class Way:
    """A named way of steering: any number of placed edits, and a prefix."""

    name: str
    placed: tuple[PlacedEdit, ...] = ()
    prefix: str = ""  # written before every prompt

    @classmethod
    def of(cls, edit: Edit | None, positions: Positions | None = None, name: str | None = None) -> Way:
        """A way of one edit, at the given positions or its default ones; by default it has the edit's name."""
        return cls(name or ("none" if edit is None else edit.name), tuple(placed_edit(edit, positions)))

    @property
    def notes(self) -> list[str]:
        """What its edits do, in sentences for users."""
        return [note for p in self.placed if (note := p.edit.note())]

    def at_zero(self) -> Way | None:
        """This way with all strengths at zero; None if no edit has a strength."""
        if all(p.edit.at_zero() is None for p in self.placed):
            return None
        return self._with(lambda edit: edit.at_zero() or edit)

    def unsteered(self) -> Way:
        """What it must equal at zero strength: only SAE reconstructions at the same positions, or no edit."""
        return self._with(lambda edit: edit.unsteered())

    def _with(self, change: Callable[[Edit], Edit | None]) -> Way:
        changed = [(p, change(p.edit)) for p in self.placed]
        return replace(self, placed=tuple(replace(p, edit=edit) for p, edit in changed if edit is not None))
