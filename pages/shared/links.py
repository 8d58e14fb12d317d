"""Links that reproduce a page: the values of its bound controls are in the address."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import streamlit as st


def page_link() -> str:
    """The address of this page with the values of its controls."""
    place = urlsplit(st.context.url or "")
    return urlunsplit(place._replace(path=place.path or "/", query=urlencode(st.query_params.to_dict(), doseq=True)))


def link_button(note: str = "") -> None:
    """A button that shows the page's link, ready to copy; `note` is shown below it."""
    with st.popover("Link", help="A link that opens this page as it is now"):
        st.code(page_link(), language=None, wrap_lines=True)
        if note:
            st.caption(note)


def file_name(*parts: str, suffix: str) -> str:
    """A file name made of these parts, with only letters, digits and hyphens."""
    words = "-".join("".join(c if c.isalnum() else " " for c in part).strip().replace(" ", "-") for part in parts)
    return f"{words[:80].strip('-').lower()}.{suffix}"


def choose_part(parts: Sequence[str], about: str, **binding: Any) -> str:
    """The choice between the parts of a page, with a link button beside it.

    Args:
        about: help text of the choice.
        binding: the widget's key and binding.
    """
    with st.container(horizontal=True, vertical_alignment="center"):
        part: str = st.segmented_control(
            "Part",
            parts,
            default=parts[0],
            required=True,
            label_visibility="collapsed",
            width="stretch",
            help=about,
            **binding,
        )
        link_button()
    return part
