"""How a judge is asked: the command and its cost."""

import shlex

import streamlit as st

from core.catalog import Setup
from core.interpretability.contexts import N_NEURONS, contexts_from_store
from core.interpretability.ratings import Plan, Rated
from core.interpretability.rubric import question
from core.models.judge import Judge
from core.store.reader import Store
from pages.parts.interpretability.contexts import drawn
from pages.shared.glossary.index import help_text

_URL = "http://localhost:8000/v1"


@st.cache_data(max_entries=16, show_spinner=False)
def _cost(fingerprint: str, _store: Store) -> tuple[int, int, int]:
    """Requests, and tokens to read and to write, where nothing is answered yet."""
    sample = tuple(contexts_from_store(_store, neuron) for neuron in drawn(_store))
    plan = Plan(Rated("", fingerprint), Judge(_URL, ""), sample, 0, tuple(map(question, sample)))
    return len(plan.due), plan.tokens_in, plan.tokens_out


def show_command(setup: Setup, store: Store) -> None:
    st.markdown("**Let a language model rate them**", help=help_text("rater"))
    words = ["python", "-m", "core", "interpret", setup.name, "--neurons", str(N_NEURONS), "--judge", _URL]
    st.code(shlex.join(words), language=None, wrap_lines=True)
    requests, tokens_in, tokens_out = _cost(store.meta["fingerprint"], store)
    st.caption(
        f"Any OpenAI-compatible endpoint; its key in STEERSCOPE_JUDGE_KEY. At most {requests:,} requests, about "
        f"{tokens_in:,} tokens to read and {tokens_out:,} to write. Each answer is kept and never asked for again; "
        "several setups and, with `--model`, several judges in one command."
    )
