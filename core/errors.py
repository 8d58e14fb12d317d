"""Every error that Steerscope raises on purpose.

SteerscopeError
├── UsageError        the request cannot be: a wrong name, number, file, or combination
│   └── UnknownSetupError, SetupConfigError, EmptyTopicError, TopicTooLongError, MissingFileError, PromptFileError,
│       PromptTooLongError, NeuronRangeError, UnknownHookError, EditError, TrainingConfigError, EmptyDatasetError,
│       ConversationError, SettingsError, ExportError, ChatSetupError
└── StateError        what is on disk does not fit, or is not there yet
    ├── ModelFolderError, UnsafeWeightsError, AutoencoderError, EmbeddingModelError, HubError, ScoringError,
    │   CheckpointError, GridError, EngineError, AcceptabilityError, JudgeError
    └── StoreError    the store of a setup
        └── StoreNotBuiltError, StoreSchemaError, StoreDamagedError, StoreBusyError, StoreWriteError

Each message says the rule, the value at hand and the next step, in one line. The command line prints it and
ends with 2.
"""

from collections.abc import Sequence
from pathlib import Path


class SteerscopeError(Exception):
    """Base of every error below."""


class UsageError(SteerscopeError):
    """The request itself is wrong."""


class StateError(SteerscopeError):
    """What is on disk does not fit the request, or is not there yet."""


class UnknownSetupError(UsageError):
    """No setup of that name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no setup '{name}'; there are {', '.join(known)} (list them: python -m core setups)")


class SetupConfigError(UsageError):
    """The user's file of setups is wrong."""


class EmptyTopicError(UsageError):
    """A topic without a word."""

    def __init__(self) -> None:
        super().__init__("the topic is empty; type at least one word")


class TopicTooLongError(UsageError):
    """A topic longer than an embedding can mean."""

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(
            f"the topic has {length:,} characters; at most {limit:,} are read: "
            "shorten it, or put one prompt a line in a file"
        )


class MissingFileError(UsageError):
    """A file that was named does not exist."""

    def __init__(self, path: Path, next_step: str = "check the path") -> None:
        super().__init__(f"no file '{path}'; {next_step}")


class PromptFileError(UsageError):
    """A file of prompts cannot be read as such."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"'{path}': {problem}")


class PromptTooLongError(UsageError):
    """A prompt and its continuation do not fit the model's context."""

    def __init__(self, n_tokens: int, new: int, limit: int) -> None:
        super().__init__(f"the prompt's {n_tokens} tokens and {new} new ones exceed the context of {limit}; shorten it")


class NeuronRangeError(UsageError):
    """A neuron number that the SAE does not have."""

    def __init__(self, neuron: int, d_sae: int, wide_enough: Sequence[str] | None = None) -> None:
        """`wide_enough`: setups that have that number, where it may be taken for a published one."""
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
    """A setting that is none of the choices, or out of range."""


class ChatSetupError(UsageError):
    """Something about the chat template, asked of a base model."""

    def __init__(self, what: str, chat_setups: Sequence[str]) -> None:
        super().__init__(
            f"{what} is about the chat template, and this setup's model has none in use; chat setups are "
            f"{', '.join(chat_setups)} (what each lacks: python -m core setups)"
        )


class ExportError(UsageError):
    """A table that cannot be written in that format, or to that place."""


class ModelFolderError(StateError):
    """A language model's folder lacks something."""


class UnsafeWeightsError(StateError):
    """Weights that only exist as a pickle."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"'{place}' has no safetensors weights; pickled ones (.bin, .pt) are not loaded: convert them first"
        )


class AutoencoderError(StateError):
    """An SAE that cannot be loaded, or that does not fit the model."""


class CheckpointError(StateError):
    """A checkpoint or a result of training cannot be written."""

    def __init__(self, folder: Path, intact: Path | None, problem: Exception) -> None:
        kept = f"'{intact}' is intact" if intact else "there is no earlier checkpoint"
        reason = str(problem).splitlines()[0]
        super().__init__(f"cannot write to '{folder}' ({reason}); {kept}; free space and run the same command again")


class GridError(StateError):
    """Some jobs of a grid failed; the others are done."""


class EngineError(StateError):
    """Ray is not installed, its cluster does not answer or has no room, or its machines share no folder."""


class EmbeddingModelError(StateError):
    """The sentence-embedding model cannot be loaded, or is not the one that was checked."""


class AcceptabilityError(StateError):
    """The classifier of acceptability cannot be loaded, or is none."""


class JudgeError(StateError):
    """The judge does not answer."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the judge at '{url}' gives no answer ({reason}); check the variables STEERSCOPE_JUDGE_*")


class HubError(StateError):
    """Something has to come from a hub, and the hub does not answer."""


class ScoringError(StateError):
    """A store in which no neuron can be scored against the topic."""


class StoreError(StateError):
    """The store of a setup is not there, not readable, or not writable."""


class StoreNotBuiltError(StoreError):
    """No store yet."""

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
        super().__init__(f"'{path}' is damaged: {problem}; mend it: {mend}")


class StoreBusyError(StoreError):
    """Another process is writing to the same place."""


class StoreWriteError(StoreError):
    """A write failed (a full disk, no permission); the message says what is intact."""

    def __init__(self, path: Path, reason: str, intact: str) -> None:
        super().__init__(f"cannot write '{path}': {reason}; {intact}")


def in_one_line(exc: BaseException) -> str:
    """What went wrong, for a table or a message: our own errors in their words, any other with its type."""
    words = str(exc).strip().splitlines()
    if isinstance(exc, SteerscopeError):
        return " ".join(words)
    return ": ".join([type(exc).__name__, *words[:1]])
