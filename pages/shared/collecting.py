"""Adds rows to the collected ones, and says how many were new."""

from collections.abc import Iterable, Mapping
from typing import Any

import streamlit as st

from core.errors import SteerscopeError
from pages.shared.messages import count, show_error
from pages.shared.resources import app_store


def collect(rows: Iterable[Mapping[str, Any]], noun: str) -> None:
    """Collects rows for Compare and export; those that are there already are not added again."""
    store, new, known = app_store(), 0, 0
    try:
        for row in rows:
            if store.collect(row) is None:
                known += 1
            else:
                new += 1
    except SteerscopeError as exc:
        show_error(exc)
        return
    already = f"; {known:,} {'was' if known == 1 else 'were'} there already" if known else ""
    st.toast(f"{count(new, noun)} in Compare and export{already}." if new or not known else "Already collected.")
