"""The Glossary page: what the app's terms mean, with an index and a search."""

import streamlit as st

from pages.shared.entry import enter
from pages.shared.glossary.index import SECTIONS
from pages.shared.glossary.term import Term
from pages.shared.messages import plain

_WIDTH = 760


def _found(terms: list[Term], words: list[str]) -> list[Term]:
    """The terms with every word in their title or text."""
    texts = [f"{term.title} {term.short} {term.more}".lower() for term in terms]
    return [term for term, text in zip(terms, texts, strict=True) if all(word in text for word in words)]


def _show_index(sections: dict[str, list[Term]]) -> None:
    """Every term's title, leading to it; a line for each section."""
    for section, terms in sections.items():
        links = " · ".join(f"[{plain(term.title)}](#{term.anchor})" for term in terms)
        st.markdown(f"**{plain(section)}**  \n{links}")


def main() -> None:
    enter("What do the words mean?")
    with st.container(width=_WIDTH):
        find: str = st.text_input(
            "Find a term",
            key="term",
            bind="query-params",
            placeholder="such as contamination",
            help="Shows the terms that have all these words in their title or text",
        )
        every = {section: _found(list(terms.values()), find.lower().split()) for section, terms in SECTIONS.items()}
        sections = {section: terms for section, terms in every.items() if terms}
        if not sections:
            st.markdown(f"No term has {plain(find)} in its title or text.")
        _show_index(sections)
        for section, terms in sections.items():
            st.header(section, anchor=False)
            for term in terms:
                st.subheader(term.title, anchor=term.anchor)
                st.markdown(f"{term.short} {term.more}")


main()
