"""Ways of steering: edits in their places under one name, with what is written before the prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from core.steering.code_edits import Edit
from core.steering.placement import PlacedEdit, Positions, placed_edit


@dataclass(frozen=True)
class Way:
    """A way of steering."""

    name: str
    placed: tuple[PlacedEdit, ...] = ()
    prefix: str = ""  # written before every prompt

    @classmethod
    def of(cls, edit: Edit | None, positions: Positions | None = None, name: str | None = None) -> Way:
        """One edit at the positions asked for, or at its own; called as the edit is, unless another name is given."""
        return cls(name or ("none" if edit is None else edit.name), tuple(placed_edit(edit, positions)))

    @property
    def notes(self) -> list[str]:
        """What its edits do, in sentences for people."""
        return [note for p in self.placed if (note := p.edit.note())]

    def at_zero(self) -> Way | None:
        """The same with every strength at zero; None where no edit has one."""
        if all(p.edit.at_zero() is None for p in self.placed):
            return None
        return self._with(lambda edit: edit.at_zero() or edit)

    def unsteered(self) -> Way:
        """What it has to equal at zero strength: SAEs alone at the same positions, or nothing at all."""
        return self._with(lambda edit: edit.unsteered())

    def _with(self, change: Callable[[Edit], Edit | None]) -> Way:
        changed = [(p, change(p.edit)) for p in self.placed]
        return replace(self, placed=tuple(replace(p, edit=edit) for p, edit in changed if edit is not None))
