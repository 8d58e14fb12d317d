"""The line above the ranking: whether the topic is carried, in plain words."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.errors import SteerscopeError
from core.scoring.chance import verdict
from pages.parts.topic.ranking import ranking_csv
from pages.parts.topic.shown import Shown
from pages.shared.glossary.index import help_text
from pages.shared.links import file_name, link_button
from pages.shared.messages import count, show_error
from pages.shared.resources import measure_cases

_OTHERS = ("polysemantic", "unaligned")  # beside the aligned, named where there are any


def show_verdict(shown: Shown) -> DeltaGenerator:
    """Shows how many neurons stand out, how far the best stands, and what was scored.

    Returns:
        Where the verdict stands, to be filled by `measure` if chance is not measured yet.
    """
    scores = shown.scored.scores
    with st.container(horizontal=True, vertical_alignment="center"):
        place = st.empty()
        second, median = scores.standing()
        st.markdown(f"Second-best score {second:.2f}, median {median:.2f}", width="content", help=help_text("standing"))
        too_rare = int((scores.table["prompts"] < scores.settings.min_prompts).sum())
        st.markdown(
            f":gray[{count(shown.n_scored, 'neuron')} scored in {1_000 * shown.scored.seconds:,.0f} ms · "
            f"{too_rare:,} too rare]",
            width="stretch",
            help=help_text("too rare"),
        )
        st.download_button(
            "CSV",
            lambda: ranking_csv(shown.store, scores, *shown.more),
            file_name(shown.setup.name, shown.topic.title, "ranking", suffix="csv"),
            "text/csv",
            on_click="ignore",
            help=f"All {shown.n_scored:,} scored neurons, best first",
        )
        link_button("A link cannot carry a file." if st.session_state.get("file_topic") else "")
    if shown.cases is None:
        place.markdown(":gray[Measuring what chance gives ...]", width="content")
    else:
        found = shown.cases["case"].value_counts()
        more = [f"{found[case]:,} {case}" for case in _OTHERS if case in found]
        words = " · ".join([f"**{_capital(verdict(shown.cases))}**", *more])
        place.markdown(words, width="content", help=help_text("case"))
    return place


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def measure(shown: Shown, place: DeltaGenerator) -> None:
    """Measures what chance gives, the page being drawn already, and draws it again with the neurons' cases."""
    with place, st.spinner("Measuring what chance gives for topics of this size: seconds, once ..."):
        try:
            measure_cases(shown.setup, shown.store, shown.topic, shown.scored)
        except SteerscopeError as exc:
            show_error(exc)
            return
    st.rerun()
