"""A chat with the model under several ways of steering: every column hears the same, and gives its own answers.

The edits act while a column reads its whole conversation, its own earlier answers included, and while it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from core.errors import UsageError
from core.settings import GenerationSettings
from core.steering.generated import Generation

if TYPE_CHECKING:
    from core.scoring.scorer import ScoredTopic
    from core.steering.generation import Generator
    from core.steering.ways import Way
    from core.steering.workbench import Workbench


@dataclass
class Turn:
    """What the user says, and what each column answers."""

    user: str
    seed: int  # of its answers
    answers: list[Generation] = field(default_factory=list)  # one per column
    figures: list[dict[str, float]] = field(default_factory=list)  # of the answers, once they are measured


@dataclass
class Chat:
    """A conversation of several turns in several columns."""

    turns: list[Turn] = field(default_factory=list)

    def conversation(self, column: int, system: str = "") -> list[dict[str, str]]:
        """A column's messages: the system's, if there is one, and every turn's; only the last may lack its answer."""
        messages = [{"role": "system", "content": system}] if system.strip() else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.user})
            if turn.answers:
                messages.append({"role": "assistant", "content": turn.answers[column].text})
        return messages

    def say(self, words: str, seed: int) -> Turn:
        """Adds a turn, which `reply` answers.

        Raises:
            UsageError: there are no words.
        """
        if not words.strip():
            raise UsageError("the message is empty; type at least one word")
        self.turns.append(Turn(words, seed))
        return self.turns[-1]

    def again(self, number: int) -> Turn:
        """Asks a turn, counted from 0, anew with the next seed; the turns after it answered another text, and go."""
        old = self.turns[number]
        del self.turns[number:]
        return self.say(old.user, old.seed + 1)

    def reply(
        self,
        bench: Workbench,
        ways: Sequence[Way],
        scored: ScoredTopic | None,
        settings: GenerationSettings,
        system: str = "",
    ) -> Generator:
        """A generator of the answers to the last turn, a column for each way; they are in the turn from the start on.

        Raises:
            EditError, ModelFolderError, PromptTooLongError, UsageError: see `Workbench.reply`.
        """
        turn = self.turns[-1]
        turn.answers, turn.figures = [], []
        conversations = [self.conversation(column, system) for column in range(len(ways))]
        generator = bench.reply(ways, conversations, scored, replace(settings, seed=turn.seed))
        turn.answers = generator.generations
        return generator
