"""The SAE training page: FAST and block training compared on our own SAEs, shipped ones and published errors."""

import streamlit as st

from pages.parts.sae_training.batches import EXAMPLE_BLOCK, KINDS, batches
from pages.parts.sae_training.published import show_published
from pages.parts.sae_training.runs import show_results
from pages.parts.sae_training.shipped import show_shipped
from pages.shared.charts import figures as charts
from pages.shared.charts.methods import METHODS, swatches
from pages.shared.entry import enter
from pages.shared.glossary.index import help_text

_METHOD_TEXTS = {
    "fast": "Each conversation is run **alone**, in the model's chat template: the model reads what it reads in use.",
    "btp": "**Plain text**, concatenated, cut into blocks of one length. A block may hold the end of one document and "
    "the beginning of the next, and never a role word.",
    "btf": "The **same conversations** as FAST, concatenated and cut like BT(P): most blocks begin within one.",
}


def _explain() -> None:
    st.html(swatches(KINDS, f"A, B, C: three texts; blocks of {EXAMPLE_BLOCK} tokens"))
    st.plotly_chart(batches(), config=charts.CONFIG, key="training_batches")
    for column, (method, text) in zip(st.columns(3, gap="medium"), _METHOD_TEXTS.items(), strict=True):
        column.markdown(f"**{METHODS[method]}**  \n{text}", help=help_text(method))
    st.caption(
        "Each bar is a forward pass of the language model. What follows is the same for the three: activations are "
        "shuffled in a mixing buffer, and the SAE sees one vector at a time (of BT(P), none of a special token)."
    )


def main() -> None:
    enter("How do FAST and block training compare?")
    _explain()
    show_results()
    show_shipped()
    show_published()


main()
