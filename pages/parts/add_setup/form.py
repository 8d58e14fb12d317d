"""The rest of the form: model, name and how the model is run; and adding the setup."""

import re
from pathlib import Path

import streamlit as st

from core.errors import SteerscopeError
from core.models.new_setup import add_setup, setups_path
from core.settings import store_root
from core.store.schema import build_command
from pages.parts.add_setup.source import Source
from pages.shared.glossary.index import help_text
from pages.shared.messages import plain, show_error
from pages.shared.resources import setup_problems, setups

_ADDED, _PROBLEM = "added_setup", "add_setup_problem"
PROMPTS = {  # what each choice sets
    "plain text": {},
    "plain text; answers in its chat template": {"instruct": True},
    "in its chat template": {"chat": True},
}
_DTYPES = ["float32", "bfloat16", "float16"]
_HALF_FROM_BILLIONS = 1.0  # from this size on, half precision is suggested


def show_form(source: Source) -> None:
    """Shows the fields, filled in as far as the SAE suggests them, and the button that adds the setup."""
    of = f"_{source.sae}"  # another SAE, other suggestions
    left, right = st.columns(2, gap="medium")
    model = left.text_input(
        "Model to load",
        source.model,
        key=f"new_model{of}",
        placeholder="models/my-model, my-model.gguf, or a hub's name",
        help="A Hugging Face folder or a GGUF file, below the folder of the file of setups, or a hub's name.",
    )
    name = right.text_input("Name", source.name, key=f"new_name{of}", help="Letters, digits, '_', '-' and '.'")
    title = left.text_input("Title", key=f"new_title{of}", help="One line on what it is; may stay empty.")
    hook_name = right.text_input(
        "Hook point",
        key=f"new_hook{of}",
        placeholder="the SAE's own",
        help="Such as blocks.6.hook_resid_post or model.layers.6; needed where the SAE does not name its own.",
    )
    answers = bool(re.search(r"-(it|instruct|chat)\b", model, re.IGNORECASE))
    prompts = left.selectbox(
        "Reference prompts are",
        list(PROMPTS),
        index=2 if answers else 0,
        key=f"new_prompts{of}_{answers}",
        help=help_text("prompts as"),
    )
    size = re.search(r"(\d+(?:\.\d+)?)b\b", model.lower())
    large = bool(size and float(size[1]) >= _HALF_FROM_BILLIONS)
    dtype = right.selectbox(
        "Number format",
        _DTYPES,
        index=int(large),
        key=f"new_dtype{of}_{large}",
        help="Of the model's weights: 4 bytes a parameter in float32, else 2.",
    )
    table = {"model": model, "sae": source.sae, "title": title, "hook_name": hook_name, "dtype": dtype}
    given = {key: value.strip() for key, value in table.items() if value.strip() or key in ("model", "sae")}
    st.button(
        "Add the setup",
        type="primary",
        on_click=_add,
        args=(name.strip(), {**given, **PROMPTS[prompts]}),
        help="Checks it, and writes it to the file of setups",
    )
    if problem := st.session_state.pop(_PROBLEM, None):
        show_error(problem)


def _add(name: str, table: dict[str, str | bool]) -> None:
    """Adds the setup and chooses it; before the page runs again, as the chooser may be set only then."""
    try:
        add_setup(name, table, only_below=True)
    except SteerscopeError as exc:
        st.session_state[_PROBLEM] = str(exc)
        return
    setups.clear()
    setup_problems.clear()
    st.session_state.update({"setup": name, "neuron": None, _ADDED: name})


def show_added(chosen: str, lacking: list[str]) -> None:
    """Says what was added last, as long as it is the chosen setup: what it lacks, and what comes next."""
    if st.session_state.get(_ADDED) != chosen:
        return
    lacks = f" To run, it lacks {'; '.join(lacking)}." if lacking else " Nothing is missing: build its store next."
    st.success(plain(f"{chosen} is added, and chosen.{lacks}"))
    st.code(build_command(store_root(), chosen), language=None, wrap_lines=True)


def folder_of_setups() -> Path:
    """The folder of the file that the setup is written to.

    Raises:
        MissingFileError, UnreadableFileError: the file that was named cannot be read.
    """
    return setups_path().parent
