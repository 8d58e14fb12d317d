"""FAST: each conversation goes through the model's own chat template and runs alone, never concatenated.

Several conversations share a forward pass, one per row and padded on the right. Attention is causal, so a row sees only
itself (FAST paper, section 3.1).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int

from core.errors import ConversationError, TrainingConfigError
from core.models.language_model import LanguageModel
from core.training.corpus import Document, check_messages
from core.training.encoded_texts import CONTENT, MARKER, ROLE, TEMPLATE, EncodedTexts, TrainingTokens

_WINDOW = 1_024  # conversations that are sorted by length together
_LONGEST_ROLE_TOKENS = 4


def token_kinds(
    model: LanguageModel, ids: Sequence[int], special: Sequence[bool], roles: set[str]
) -> Int[np.ndarray, "token"]:
    """Kind of each token: content, plain text of the template, role word, or marker (special token).

    A role word is recognised by its place: template text directly after a special token that spells a role.
    """
    added = {i for i, token in model.tokenizer.added_tokens_decoder.items() if token.special}
    of_template = [MARKER if i in added else TEMPLATE for i in ids]
    kinds = np.where(special, of_template, CONTENT).astype(np.uint8)
    for start in range(1, len(ids)):
        if kinds[start - 1] != MARKER:
            continue
        for end in range(start + 1, min(start + _LONGEST_ROLE_TOKENS, len(ids)) + 1):
            if not special[end - 1] or ids[end - 1] in added:
                break
            if model.tokenizer.decode(list(ids[start:end])).strip() in roles:
                kinds[start:end] = ROLE
                break
    return kinds


def encode_conversations(
    documents: Iterator[Document], model: LanguageModel, refused: list[str] | None = None
) -> Iterator[tuple[Int[np.ndarray, "token"], Int[np.ndarray, "token"]]]:
    """Token ids and kinds of each conversation in the chat template, without truncation.

    Args:
        refused: takes the reasons of conversations that the template refuses, which are then left out.

    Raises:
        TrainingConfigError: the tokenizer has no chat template.
        ConversationError: a message has no role or content, or the template refuses a conversation.
    """
    if not model.tokenizer.chat_template:
        raise TrainingConfigError(
            f"the tokenizer of {model.name} has no chat template, which methods btf and fast need; train on a chat "
            f"model, or by method btp"
        )
    for number, document in enumerate(documents, start=1):
        if not document.messages:
            raise ConversationError(f"conversation {number} has no messages; plain text trains with method 'btp'")
        check_messages(document.messages, f"conversation {number}")
        try:
            prompt = model.tokenise_chat(document.messages)
        except ConversationError as exc:
            if refused is None:
                raise ConversationError(f"conversation {number}: {exc}; leave it out") from exc
            refused.append(str(exc))
            continue
        roles = {message["role"] for message in document.messages} | {"system"}  # templates may add a system turn
        yield np.array(prompt.ids, dtype=np.uint32), token_kinds(model, prompt.ids, prompt.special, roles)


class ConversationBatches:
    """Batches of conversations of similar length; a batch depends only on its number and the seed."""

    def __init__(self, texts: EncodedTexts, *, max_tokens: int, tokens_per_batch: int, seed: int) -> None:
        """Truncates conversations to `max_tokens`; `tokens_per_batch` includes padding, see `pack`."""
        self._texts, self._max_tokens, self._seed = texts, max_tokens, seed
        self._tokens_per_batch = tokens_per_batch
        self._lengths = np.minimum(np.diff(texts.starts), max_tokens)
        self._begin_pass(0, first_number=0)

    def describe(self) -> str:
        """The contents of one pass in words, for the card."""
        truncated = int((np.diff(self._texts.starts) > self._max_tokens).sum())
        told = f"{len(self._texts):,} conversations in a pass, {truncated:,} truncated at {self._max_tokens:,} tokens"
        return told + self._texts.left_out

    @property
    def duplicates(self) -> tuple[int, int]:
        """Conversations that deduplication dropped, and those that it read."""
        return self._texts.duplicates

    def _begin_pass(self, number: int, first_number: int) -> None:
        rng = np.random.default_rng([self._seed, number])
        self._pass, self._first_number = number, first_number
        self._plan = pack(self._lengths, self._tokens_per_batch, rng)
        if number == 0:
            self.batches_in_first_pass = len(self._plan)

    def batch(self, number: int) -> TrainingTokens:
        """The conversations of one forward pass [conversation pos], padded on the right."""
        if number < self._first_number:
            self._begin_pass(0, first_number=0)
        while number >= self._first_number + len(self._plan):
            self._begin_pass(self._pass + 1, self._first_number + len(self._plan))
        rows = self._plan[number - self._first_number]
        shape = (len(rows), int(self._lengths[rows].max()))
        # padding is never attended to, so any id will do
        ids, kinds = np.zeros(shape, dtype=np.uint32), np.full(shape, TEMPLATE, dtype=np.uint8)
        attention = torch.zeros(shape, dtype=torch.bool)
        for row, conversation in enumerate(rows):
            n, start = self._lengths[conversation], self._texts.starts[conversation]
            ids[row, :n] = self._texts.ids[start : start + n]
            kinds[row, :n] = self._texts.kinds[start : start + n]
            attention[row, :n] = True
        return TrainingTokens.of(ids, kinds, attention)


def pack(
    lengths: Int[np.ndarray, "text"], tokens_per_batch: int, rng: np.random.Generator
) -> list[Int[np.ndarray, "row"]]:
    """A random order of all texts, cut into batches of at most `tokens_per_batch` tokens, padding included.

    Within windows of this order, texts are sorted by length; the batches of a window are shuffled again. A text longer
    than `tokens_per_batch` is a batch of its own.

    Returns:
        The indices of each batch's texts.
    """
    batches: list[np.ndarray] = []
    order = rng.permutation(len(lengths))
    for begin in range(0, len(order), _WINDOW):
        window = order[begin : begin + _WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        of_window, start = [], 0
        for end in range(1, len(window) + 1):
            # sorted, so the next text would be the longest of its batch
            if end == len(window) or lengths[window[end]] * (end + 1 - start) > tokens_per_batch:
                of_window.append(window[start:end])
                start = end
        batches += [of_window[i] for i in rng.permutation(len(of_window))]
    return batches
