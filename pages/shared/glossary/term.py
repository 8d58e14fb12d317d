"""What a word of the app's glossary is."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A word of the app."""

    title: str
    short: str  # one sentence: the help text
    more: str = ""  # how it is computed, and what to beware of

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower())
