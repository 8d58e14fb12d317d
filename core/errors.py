"""Every error that Steerscope raises on purpose.

SteerscopeError
├── UsageError        the request is wrong: a name, number, file or combination that cannot work
│   └── UnknownSetupError, SetupConfigError, UnknownTopicError, EmptyTopicError, TopicTooLongError, MissingFileError,
│       UnreadableFileError, PromptFileError, PromptTooLongError, NeuronRangeError, UnknownHookError, EditError,
│       TrainingConfigError, EmptyDatasetError, ConversationError, SettingsError, ExportError, ChatSetupError
└── StateError        the request is fine, but something on disk or a server is missing, damaged or does not fit
    ├── ModelFolderError, UnsafeWeightsError, AutoencoderError, EmbeddingModelError, HubError, ScoringError,
    │   CheckpointError, DivergedError, GridError, EngineError, AcceptabilityError, JudgeError
    └── StoreError    the store of a setup
        └── StoreNotBuiltError, StoreSchemaError, StoreDamagedError, StoreBusyError, StoreWriteError

Each message states in one line the rule, the value at hand and the next step. The command line prints it and
exits with code 2.
"""

from collections.abc import Sequence
from pathlib import Path

_LONGEST_PATH = 200  # characters shown in a message


class SteerscopeError(Exception):
    """Base of every error below."""

    exit_code = 2  # of the command line: 1 where the request was fine and the work failed


class UsageError(SteerscopeError):
    """The request itself is wrong."""


class StateError(SteerscopeError):
    """The request is fine, but something on disk or a server is missing, damaged or does not fit."""


class UnknownSetupError(UsageError):
    """No setup has that name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no setup '{name}'; there are {', '.join(known)} (list them: python -m core setups)")


class SetupConfigError(UsageError):
    """The user's file of setups has a wrong entry."""


class UnknownTopicError(UsageError):
    """No bundled topic has that name."""

    def __init__(self, name: str, near: Sequence[str], next_step: str) -> None:
        super().__init__(f"no bundled topic '{name[:80]}'; the nearest are {', '.join(near)}; {next_step}")


class EmptyTopicError(UsageError):
    """The topic has no words."""

    def __init__(self) -> None:
        super().__init__("the topic is empty; type at least one word")


class TopicTooLongError(UsageError):
    """The topic has too many characters for one embedding."""

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(
            f"the topic has {length:,} characters; at most {limit:,} are read: "
            "shorten it, or write one prompt per line to a file"
        )


class MissingFileError(UsageError):
    """A file that was named does not exist."""

    def __init__(self, path: Path, next_step: str = "check the path") -> None:
        super().__init__(f"no file {shortened(path)}; {next_step}")


class UnreadableFileError(UsageError):
    """A file that was named cannot be opened: no permission, or no name that the system takes."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot read {shortened(path)}: {reason}; name another file, or make this one readable")


class PromptFileError(UsageError):
    """A file of prompts has a wrong type, encoding or content."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"'{path}': {problem}")


class PromptTooLongError(UsageError):
    """A prompt and its continuation together exceed the model's context."""

    def __init__(self, n_tokens: int, new: int, limit: int) -> None:
        super().__init__(f"the prompt's {n_tokens} tokens and {new} new ones exceed the context of {limit}; shorten it")


class NeuronRangeError(UsageError):
    """A neuron number that the SAE does not have."""

    def __init__(self, neuron: int, d_sae: int, wide_enough: Sequence[str] | None = None) -> None:
        """`wide_enough`: setups whose SAE has that neuron, where the number may come from a published table."""
        message = f"neuron {neuron} is out of range: this SAE has neurons 0 to {d_sae - 1}"
        if wide_enough is not None:
            wide = f"wide enough: {', '.join(wide_enough)}" if wide_enough else "no SAE on this machine is wide enough"
            message += f" ({d_sae:,} in all); a number means another neuron in another SAE; {wide}"
        super().__init__(message)


class UnknownHookError(UsageError):
    """A hook point that the model does not have, or that has no single tensor to edit."""

    def __init__(self, hook_name: str, model: str, known: str) -> None:
        super().__init__(f"no hook point '{hook_name}' in {model}; it has {known}")


class EditError(UsageError):
    """An edit that cannot be done on this SAE, or with these settings."""


class TrainingConfigError(UsageError):
    """A training configuration has a wrong or missing value."""


class EmptyDatasetError(UsageError):
    """There is no text to train on, or too little."""

    def __init__(self, what: str) -> None:
        super().__init__(f"nothing to train on: {what}; name larger sources or a larger share of them")


class ConversationError(UsageError):
    """A conversation that cannot be put through a chat template."""


class SettingsError(UsageError):
    """A setting is not one of the choices, or is out of range."""


class ChatSetupError(UsageError):
    """The request needs a chat template, and the setup's model uses none."""

    def __init__(self, what: str, chat_setups: Sequence[str]) -> None:
        super().__init__(
            f"{what} needs a chat template, and this setup's model uses none; chat setups are "
            f"{', '.join(chat_setups)} (what each lacks: python -m core setups); your own says instruct = true"
        )


class ExportError(UsageError):
    """A table cannot be written in that format, or to that path."""


class ModelFolderError(StateError):
    """A language model's folder lacks a file or some weights, or is damaged."""


class UnsafeWeightsError(StateError):
    """The weights exist only as a pickle, which can run code when loaded."""

    def __init__(self, place: str, conversion: str = "convert them first") -> None:
        super().__init__(f"'{place}' has no safetensors weights; pickled ones (.bin, .pt) are not loaded: {conversion}")


class AutoencoderError(StateError):
    """An SAE that cannot be loaded, or that does not fit the model."""


class CheckpointError(StateError):
    """A checkpoint or a result of training cannot be written."""

    def __init__(self, folder: Path, intact: Path | None, problem: Exception) -> None:
        kept = f"'{intact}' is intact" if intact else "there is no earlier checkpoint"
        reason = str(problem).splitlines()[0]
        super().__init__(f"cannot write to '{folder}' ({reason}); {kept}; free space and run the same command again")


class DivergedError(StateError):
    """A training whose numbers are none any more; nothing of it is copied to the result."""

    exit_code = 1

    def __init__(self, what: str, suspect: str, kept: str) -> None:
        super().__init__(f"{what}: {suspect} is suspect; {kept}")


class GridError(StateError):
    """Some jobs of a grid failed; the others are done."""


class EngineError(StateError):
    """Ray is not installed, its cluster does not answer or has no room, or its machines share no folder."""


class EmbeddingModelError(StateError):
    """The sentence-embedding model cannot be loaded, or its weights have the wrong checksum."""


class AcceptabilityError(StateError):
    """The acceptability classifier cannot be loaded, or does not have two classes."""


class JudgeError(StateError):
    """The judge does not answer."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the judge at '{url}' gives no answer ({reason}); check the variables STEERSCOPE_JUDGE_*")


class HubError(StateError):
    """Something must be downloaded from a hub that cannot be reached."""


class ScoringError(StateError):
    """The store and the topic do not allow a score for any neuron."""


class StoreError(StateError):
    """The store of a setup is not there, not readable, or not writable."""


class StoreNotBuiltError(StoreError):
    """The setup's store has not been built yet."""

    def __init__(self, path: Path, mend: str) -> None:
        super().__init__(f"no store '{path}'; build it: {mend}")


class StoreSchemaError(StoreError):
    """A store that another version of this program wrote."""

    def __init__(self, path: Path, found: str, expected: int, mend: str) -> None:
        super().__init__(
            f"'{path}' has schema version {found}, this program reads version {expected}; rebuild it: {mend}"
        )


class StoreDamagedError(StoreError):
    """A store that is cut short, corrupt, or lacks a table or a column."""

    def __init__(self, path: Path, problem: str, mend: str) -> None:
        super().__init__(f"'{path}' is damaged: {problem}; repair it: {mend}")


class StoreBusyError(StoreError):
    """Another process is writing to the same place."""


class StoreWriteError(StoreError):
    """A write failed (a full disk, no permission); the message says what is intact."""

    def __init__(self, path: Path, reason: str, intact: str) -> None:
        super().__init__(f"cannot write '{path}': {reason}; {intact}")


def shortened(path: Path | str) -> str:
    """A path in quotes; of a long one only the beginning and the end."""
    text = str(path)
    return f"'{text}'" if len(text) <= _LONGEST_PATH else f"'{text[:60]}...{text[-40:]}'"


def in_one_line(exc: BaseException) -> str:
    """An error as one line of text; errors of other libraries are preceded by their type."""
    words = str(exc).strip().splitlines()
    if isinstance(exc, SteerscopeError):
        return " ".join(words)
    return ": ".join([type(exc).__name__, *words[:1]])
