"""Messages to the user. Text from outside is shown literally, never as Markdown or HTML."""

import re

import streamlit as st

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")  # ASCII punctuation, which Markdown lets a backslash escape


def plain(text: str) -> str:
    """The text on one line, escaped so that Markdown shows it literally."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def show_error(problem: Exception | str) -> None:
    """Shows what went wrong and what to do, at the place where it happened."""
    st.error(plain(str(problem)))


def count(n: int, noun: str) -> str:
    """A number with its noun, as in `1 prompt` or `2,000 prompts`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
