"""Links that reproduce a page: the values of its bound controls are in the address."""

import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import streamlit as st

from pages.shared.messages import plain

_IGNORED = "ignored_of_the_link"
# controls of free text, where "inf" is a word
TEXTS = ("topic", "prompt", "ask", "system", "text", "find", "term", "words")

# what a link to another page takes along of this one: the topic and how it is scored
CARRIED = ("topic", "bundled", "summary", "distance", "variant", "min_prompts", "max_density")


def page_link() -> str:
    """The address of this page with the values of its controls; setup and topic are named even where they are usual."""
    place, state = urlsplit(st.context.url or ""), st.session_state
    query: dict[str, Any] = {key: st.query_params.get_all(key) for key in st.query_params}
    for key in ("setup", "topic"):
        if value := state.get(key):
            query.setdefault(key, value)
    return urlunsplit(place._replace(path=place.path or "/", query=urlencode(query, doseq=True)))


def carried_query() -> dict[str, str]:
    """Query parameters that keep this page's setup and topic on another page."""
    state, query = st.session_state, st.query_params
    carried = {"setup": state.get("setup")} | {key: query.get(key) for key in CARRIED}
    return {key: value for key, value in carried.items() if value}


def steering_query(neurons: Sequence[int]) -> dict[str, str | list[str]]:
    """Query parameters with which Generate opens on these neurons: the original beside them added, with a slider.

    st.switch_page("pages/generate.py", query_params=steering_query([2032, 17]))
    """
    return {**carried_query(), "added": " ".join(map(str, neurons)), "columns": ["Original", "Add"]}


def ignore_wrong_numbers() -> None:
    """Drops what a link gives as a number and is none, such as `inf`, and says so; the control has its default then."""
    ignored = {
        name: value for name, value in st.query_params.to_dict().items() if name not in TEXTS and _endless(value)
    }
    page = urlsplit(st.context.url or "").path
    if ignored and st.session_state.get(_IGNORED) != (page, ignored):
        for name in ignored:
            del st.query_params[name]
        st.session_state[_IGNORED] = (page, ignored)
        st.rerun()  # controls take their values from the address that a run began with
    told_on, told = st.session_state.get(_IGNORED, (page, {}))
    for name, value in told.items():
        if told_on == page and (name not in st.query_params or name in ignored):  # until its control is used
            st.warning(plain(f"The link's {name} is {value}, which is no number: ignored."))


def _endless(value: str) -> bool:
    """Whether a value is read as a number and is none: NaN or an infinity, also as 1e999."""
    try:
        return not math.isfinite(float(value))
    except ValueError:
        return False


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
