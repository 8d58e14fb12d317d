"""A chat as people type it."""

from core.text.messages import parse_messages


def test_typed_chat_is_read_as_messages() -> None:
    typed = "Hello\nuser: Who rules?\nSince when: always\n Assistant : A court.\nuser:\nsystem: Be brief."
    assert parse_messages(typed) == [
        {"role": "user", "content": "Hello"},
        {"role": "user", "content": "Who rules?\nSince when: always"},
        {"role": "assistant", "content": "A court."},
        {"role": "system", "content": "Be brief."},
    ]
    assert parse_messages(" \n") == []
