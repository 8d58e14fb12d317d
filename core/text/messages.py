"""A chat as people type it."""

import re

_TURN = re.compile(r"^\s*(system|user|assistant)\s*:", re.IGNORECASE | re.MULTILINE)


def parse_messages(text: str) -> list[dict[str, str]]:
    """A chat as it is typed: a line that begins with `system:`, `user:` or `assistant:` begins a message.

    What stands before the first of them is a user's message; messages without words are left out.
    """
    first, *turns = _TURN.split(text)  # text, then roles and texts in turns
    pairs = [("user", first), *zip(turns[::2], turns[1::2], strict=True)]
    return [{"role": role.lower(), "content": words.strip()} for role, words in pairs if words.strip()]
