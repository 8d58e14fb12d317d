"""The strongest neurons of the chat template's tokens: choosing one, and the tables of F.3 of the FAST paper."""

from html import escape

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.results.names import Names
from core.store.reader import Store
from core.sweep.request import PUBLISHED_NEURON, check_neuron, random_neuron
from pages.shared.charts.methods import METHODS
from pages.shared.columns import number
from pages.shared.glossary.index import help_text
from pages.shared.messages import plain
from pages.shared.names import neuron_link, neuron_names, with_names
from pages.shared.tokens import Shaded, legend, token_spans

N_SHOWN = 5  # as in the paper
_DEFAULT_MODEL, _DEFAULT_METHOD = "Qwen2.5-7B-Instruct", "FAST, x8"
PAPER = (
    "From *Training Superior Sparse Autoencoders for Instruct Models*, arXiv:2506.07691, F.3: published figures, none "
    "measured here. The captions are lost; which model is which follows from token ids and widths. The layer is not "
    "stated, presumably a middle one."
)


def default_neuron(store: Store, table: pd.DataFrame | None) -> int:
    """The strongest neuron of the first template token; if that is not known, the paper's number or any neuron."""
    if table is not None and not table.empty:
        return int(table["neuron"].iloc[0])
    return PUBLISHED_NEURON if store.d_sae > PUBLISHED_NEURON else random_neuron(store)


def choose_neuron(setup: Setup, store: Store, table: pd.DataFrame | None) -> int:
    """The neuron that is typed, in the link, or picked among the strongest of a template token.

    Args:
        table: of the experiment `special`, if it has been run.
    """
    default = default_neuron(store, table)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        typed = st.number_input(
            "Neuron",
            value=None,
            step=1,
            key="neuron",
            bind="query-params",
            placeholder=str(default),
            help=f"0 to {store.d_sae - 1:,}. " + help_text("neuron"),
            width=150,
        )
        neuron = default if typed is None else typed
        if table is not None and not table.empty:
            _pick(table, neuron, store)
    st.caption(with_names(_about(neuron, store.d_sae, table), neuron_names(store)))
    return neuron


def _pick(table: pd.DataFrame, neuron: int, store: Store) -> None:
    """Offers the strongest neurons of one template token, and the one that the paper steers."""
    tokens = table["token"].drop_duplicates().tolist()
    token = st.selectbox(
        "Strongest on", tokens, key="token", bind="query-params", width=170, help=help_text("special tokens")
    )
    top = table[(table["token"] == token) & (table["rank"] <= N_SHOWN)]
    names = neuron_names(store)
    values = {str(n): plain(f"{names[n]}: {number(v)}") for n, v in zip(top["neuron"], top["mean_max"], strict=True)}
    if store.d_sae > PUBLISHED_NEURON:
        values.setdefault(str(PUBLISHED_NEURON), plain(f"{names[PUBLISHED_NEURON]}: the paper's number"))
    st.session_state["strongest"] = str(neuron) if str(neuron) in values else None
    st.pills(
        f"Neurons most active on {token}",
        list(values),
        key="strongest",
        format_func=lambda key: values[key],
        on_change=_on_pick,
        help=help_text("mean max"),
    )


def _on_pick() -> None:
    if picked := st.session_state["strongest"]:
        st.session_state["neuron"] = int(picked)


def _about(neuron: int, d_sae: int, table: pd.DataFrame | None) -> str:
    """What the number of a neuron means in this SAE and in the paper, in words."""
    parts = []
    if table is not None:
        mine = table[table["neuron"] == neuron]
        places = [f"{token} (rank {rank})" for token, rank in zip(mine["token"], mine["rank"], strict=True)]
        if places:
            parts.append(f"Of {', '.join(places)}, neuron {neuron} is among the 20 most active.")
    if d_sae <= PUBLISHED_NEURON:
        parts.append(f"{PUBLISHED_NEURON}, the number that the paper steers, is not here: this SAE has {d_sae:,}.")
    elif neuron == PUBLISHED_NEURON:
        parts.append(f"{PUBLISHED_NEURON} is the number that the paper steers, in its SAE of Qwen2.5-7B-Instruct.")
    parts.append("A number means another neuron in another SAE.")
    return " ".join(parts)


def show_what_it_fires_on(store: Store, neuron: int) -> None:
    """The neuron by its name, a link to its page, and the prompts on which it fires most.

    Raises:
        NeuronRangeError: the SAE has no such neuron.
    """
    check_neuron(neuron, store.d_sae)
    contexts = store.contexts(neuron)
    left, right = st.columns(2, gap="medium", vertical_alignment="center")
    left.html(f"<p>{neuron_link(neuron_names(store)[neuron])}</p>")
    with right.popover("What it fires on", help=help_text("contexts")):
        if not contexts:
            st.markdown("It fires on no ordinary token of the reference prompts; special tokens are left out there.")
            return
        largest = max(float(context.activations.max()) for context in contexts)
        paragraphs = [legend("0", f"{largest:.3g}", "activation")]
        for context in contexts:
            pairs = zip(context.tokens, context.activations.tolist(), strict=True)
            tokens = [Shaded(token, a, f"activation {a:.3g}" if a else "") for token, a in pairs]
            paragraphs.append(token_spans(tokens, largest))
        st.html("".join(paragraphs))
        st.caption("Over reference prompts, whose special tokens are left out.")


# ---- F.3 ----


def token_table(table: pd.DataFrame, names: Names | None = None) -> str:
    """The strongest neurons of each token, strongest first, each with its mean largest activation (HTML).

    Args:
        table: columns token, rank, neuron, mean_max.
        names: of the setup's neurons; None: of another SAE, whose neurons have numbers alone.
    """
    ranks = range(1, N_SHOWN + 1)
    heads = "".join(f'<th scope="col">{"strongest" if rank == 1 else rank}</th>' for rank in ranks)
    lines = []
    for token, group in table.groupby("token", sort=False):
        best = group.nsmallest(N_SHOWN, "rank")
        cells = [
            f"<td>{n if names is None else neuron_link(names[n])} <b>{number(value)}</b></td>"
            for n, value in zip(best["neuron"], best["mean_max"], strict=True)
        ]
        lines.append(f'<tr><th scope="row"><code>{escape(token)}</code></th>{"".join(cells)}</tr>')
    return (
        '<div class="ss-wide"><table class="ss-figures ss-tokens">'
        f'<thead><tr><th scope="col">token</th>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def published_tokens(table: pd.DataFrame, alphas: pd.DataFrame) -> None:
    """Shows the published neurons of one model and approach, and the alphas that helped there."""
    table = table.assign(approach=table["method"].map(METHODS) + ", x" + table["expansion"].astype(str))
    with st.container(horizontal=True):
        models = table["model"].drop_duplicates().tolist()
        model = st.selectbox(
            "Model", models, models.index(_DEFAULT_MODEL), key="paper_model", bind="query-params", width=230
        )
        approaches = table.loc[table["model"] == model, "approach"].drop_duplicates().tolist()
        approach = st.selectbox(
            "Approach",
            approaches,
            approaches.index(_DEFAULT_METHOD),
            key="paper_method",
            bind="query-params",
            width=150,
        )
    st.html(token_table(table[(table["model"] == model) & (table["approach"] == approach)]))
    for line in _useful_alphas(alphas[alphas["model"] == model]):
        st.caption(line)
    st.caption(PAPER)


def _useful_alphas(alphas: pd.DataFrame) -> list[str]:
    """What the paper says about the alphas that helped, one line per question."""
    lines = []
    for row in alphas.itertuples():
        known = pd.notna(row.alpha_low)
        span = f"alpha {row.alpha_low:g} to {row.alpha_high:g}" if known else "numbers lost in the text we have"
        lines.append(plain(f"Question {row.question} of the paper, neuron {row.neuron}: {span}; {row.effect}."))
    return lines
