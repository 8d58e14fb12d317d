"""A neuron's name wherever its number stands: as a link (HTML or Markdown), and as text for hovers and choices."""

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from core.results.app_store import AppStore
from core.results.names import Names, NeuronName, open_names
from core.store.reader import Store
from pages.shared.glossary.index import help_text
from pages.shared.links import carried_query
from pages.shared.messages import plain
from pages.shared.resources import app_store

NAME_COLUMN = st.column_config.LinkColumn("neuron", display_text=r"#(.*)$", help=help_text("name"))
_NUMBERED = re.compile(r"\bneuron (\d+)")


def _built(store: Store) -> tuple[str, str | None]:
    return str(store.path), store.meta.get("built_at")


@st.cache_resource(max_entries=8, show_spinner=False, hash_funcs={Store: _built})
def _names(store: Store, root: Path, changed: tuple[int, int] | None) -> Names:
    return open_names(store, AppStore(root))


def neuron_names(store: Store) -> Names:
    """The name of every neuron of the store's setup, read once for all sessions until a label changes.

    Raises:
        StoreBusyError, StoreDamagedError: see `AppStore`.
    """
    path = app_store().path
    stat = path.stat() if path.exists() else None
    return _names(store, path.parent, None if stat is None else (stat.st_mtime_ns, stat.st_size))


def neuron_address(neuron: int) -> str:
    """The address of the neuron's page, with the setup and the topic of this page."""
    return f"./?{urlencode({**carried_query(), 'neuron': str(neuron)})}"


def neuron_link(name: NeuronName) -> str:
    """The name as HTML that opens the neuron's page in a tab of its own."""
    words = f" <small>{escape(name.short)}</small>" if name.words else ""
    title = f' title="{escape(name.words)}"' if name.short != name.words else ""
    return (
        f'<a class="ss-neuron" href="{escape(neuron_address(name.neuron))}" target="_blank"{title}>'
        f"{name.neuron}{words}</a>"
    )


def neuron_markdown(name: NeuronName) -> str:
    """The name as a Markdown link to the neuron's page."""
    return f"[{plain(str(name))}]({neuron_address(name.neuron)})"


def with_names(sentence: str, names: Names) -> str:
    """A sentence as Markdown, each `neuron 12` in it with the neuron's name, as a link."""
    return _NUMBERED.sub(lambda found: f"neuron {neuron_markdown(names[int(found[1])])}", plain(sentence))


def linked(names: Names, neurons: Iterable[int]) -> list[str]:
    """The addresses of neurons' pages for a table's column `NAME_COLUMN`, which shows their names."""
    return [f"{neuron_address(neuron)}#{names[neuron]}" for neuron in neurons]


def hover_name(name: NeuronName) -> str:
    """The name as plotly shows it in a hover or a label, which reads HTML."""
    return escape(str(name)).replace("{", "&#123;")  # %{...} is plotly's own
