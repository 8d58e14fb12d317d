"""The Glossary page: what the app's terms mean."""

import streamlit as st

from pages.shared.entry import enter
from pages.shared.glossary.index import SECTIONS

enter("What do the words mean?")
with st.container(width=760):
    for section, terms in SECTIONS.items():
        st.header(section, anchor=False)
        for term in terms.values():
            st.subheader(term.title, anchor=term.anchor)
            st.markdown(f"{term.short} {term.more}")
