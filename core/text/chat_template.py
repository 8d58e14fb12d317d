"""Tokenises conversations with the tokenizer's chat template, and keeps message text and template tokens apart.

Template tokens are identified by position, never by id: a '<|im_start|>' or 'user' inside a message is ordinary text.
The template is first filled with placeholder marks and split at its special tokens. Only then do the messages' contents
replace the marks, so that nothing in them can form a special token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

ROLES = {"user": 1, "assistant": 2}  # roles that can be steered separately, as numbered in a batch; 0: neither

Conversation = Sequence[Mapping[str, str]]  # messages, each with its role and content

_MARK = "\ue000"  # private-use character; encloses a message's number where its content will go


def encode_text(tokenizer: Any, text: str, *, offsets: bool = False) -> Any:
    """Tokenises text as ordinary tokens only, even where it spells a special token."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=offsets)


def encode_conversation(
    tokenizer: Any, messages: Conversation, *, generate: bool = False
) -> tuple[list[int], list[str]]:
    """Token ids of a conversation, and for each token the role of the message it belongs to; '' for template tokens.

    Args:
        generate: append the header of the assistant's turn.
    """
    bodies = [message["content"].strip() for message in messages]  # templates may strip white space
    marked = [
        {**message, "content": message["content"].replace(body, f"{_MARK}{i}{_MARK}", 1)}
        for i, (message, body) in enumerate(zip(messages, bodies, strict=True))
    ]
    template = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=generate)
    special_ids = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    longest_first = sorted(special_ids, key=len, reverse=True)
    ids: list[int] = []
    roles: list[str] = []
    for piece in re.split(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})", template):
        if piece in special_ids:
            ids.append(special_ids[piece])
            roles.append("")
        elif piece:
            text, role_of = _filled(piece, messages, bodies)
            encoding = encode_text(tokenizer, text, offsets=True)
            ids += encoding.input_ids
            roles += [max(role_of[start:end], default="") for start, end in encoding.offset_mapping]
    return ids, roles


def _filled(piece: str, messages: Conversation, bodies: Sequence[str]) -> tuple[str, list[str]]:
    """A piece of the template with its marks replaced by contents, and the role of each character; '' for template."""
    text, role_of = "", []
    for i, part in enumerate(re.split(f"{_MARK}(\\d+){_MARK}", piece)):
        is_number = i % 2 == 1  # re.split alternates text and captured group
        filling, role = (bodies[int(part)], messages[int(part)]["role"]) if is_number else (part, "")
        text += filling
        role_of += [role] * len(filling)
    return text, role_of
