"""The Add a setup page: an SAE of sae_lens's list or of a folder, its model, and a name; checked, then written."""

import streamlit as st

from core.errors import SteerscopeError
from pages.parts.add_setup.form import folder_of_setups, show_added, show_form
from pages.parts.add_setup.source import choose_source
from pages.shared.entry import enter
from pages.shared.messages import plain, show_error
from pages.shared.setups import chosen_setup


def main() -> None:
    enter("Which model and SAE do you want to add?")
    chosen, lacking = chosen_setup()
    show_added(chosen.name, lacking)
    try:
        folder = folder_of_setups()
    except SteerscopeError as exc:
        show_error(exc)
        return
    show_form(choose_source(folder))
    st.caption(plain(f"Written to the file of setups in {folder}. Change or remove a setup there."))


main()
