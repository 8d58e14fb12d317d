"""Documents of a Hugging Face dataset (`hub:owner/name`), streamed; the usual column names are recognised."""

from collections.abc import Iterator, Mapping
from typing import Any

from core.errors import ConversationError, HubError
from core.models.hub import hub_or_cache
from core.training.corpus import Document

_PREFIX = "hub:"
_CONVERSATION_COLUMNS = ("messages", "conversation", "conversations")
_SHUFFLED_ROWS = 10_000
_ROLE_NAMES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names


def is_hub_source(path: str) -> bool:
    """Whether a source's path names a dataset on the Hugging Face hub."""
    return path.startswith(_PREFIX)


def read_hub_documents(path: str) -> Iterator[Document]:
    """Streams the rows of the dataset's train split, shuffled by shard and within a buffer of 10,000 rows.

    Raises:
        HubError: the hub does not answer, or has no such dataset.
        ConversationError: a row has neither text nor messages.
    """
    import datasets

    name = path.removeprefix(_PREFIX)
    with hub_or_cache() as unreachable:
        try:
            rows = datasets.load_dataset(name, split="train", streaming=True).shuffle(
                seed=0, buffer_size=_SHUFFLED_ROWS
            )
            for number, row in enumerate(rows, start=1):
                yield document_of(row, f"row {number} of {name}")
        except (OSError, ValueError) as exc:
            reason = unreachable or str(exc).splitlines()[0]
            raise HubError(f"cannot read dataset '{name}' ({reason}); connect, or name a local file as source") from exc


def document_of(row: Mapping[str, Any], where: str) -> Document:
    """One row as a document: its `text`, or its messages as role/content or ShareGPT's from/value pairs.

    Raises:
        ConversationError: the row has neither text nor messages.
    """
    for column in _CONVERSATION_COLUMNS:
        if row.get(column):
            messages = tuple(_message(message) for message in row[column])
            return Document("\n".join(message["content"] for message in messages), messages)
    if isinstance(row.get("text"), str):
        return Document(row["text"])
    raise ConversationError(f"{where} has neither 'text' nor any of {', '.join(_CONVERSATION_COLUMNS)}")


def _message(message: Mapping[str, Any]) -> dict[str, str]:
    role = message.get("role") or message.get("from") or ""
    content = message.get("content") or message.get("value") or ""
    return {"role": _ROLE_NAMES.get(role, role), "content": content}
