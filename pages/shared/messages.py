"""Words to the user; what came from outside is shown as it is, never as Markdown or HTML."""

import re

import streamlit as st

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")  # of ASCII; each may stand behind a backslash in Markdown


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def show_error(problem: Exception | str) -> None:
    """What went wrong and what to do, where it arose."""
    st.error(plain(str(problem)))


def count(n: int, noun: str) -> str:
    """`1 prompt`, `2,000 prompts`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
