"""A term of the app's glossary."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A term of the app, with its explanation."""

    title: str
    short: str  # one sentence: the help text
    more: str = ""  # how it is computed, and its pitfalls

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower())
