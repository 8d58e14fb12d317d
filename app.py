"""The app: page config, navigation, sidebar. Run it: streamlit run app.py"""

import streamlit as st

from pages.shared.entry import THROUGH_APP
from pages.shared.links import ignore_wrong_numbers
from pages.shared.setups import choose_setup
from pages.shared.tokens import style_sheet

ADD_SETUP = st.Page("pages/add_setup.py", title="Add a setup")  # reached from the choice of the setup
PAGES = (
    st.Page("pages/topic.py", title="Topic", default=True),
    st.Page("pages/top_k.py", title="Top-k tokens"),
    st.Page("pages/distributions.py", title="Distributions"),
    st.Page("pages/coverage.py", title="Coverage"),
    st.Page("pages/layer_output.py", title="Layer output"),
    st.Page("pages/texts.py", title="Texts"),
    st.Page("pages/cost.py", title="Cost"),
    st.Page("pages/my_text.py", title="My text"),
    st.Page("pages/generate.py", title="Generate"),
    st.Page("pages/special_tokens.py", title="Special tokens"),
    st.Page("pages/sae_training.py", title="SAE training"),
    st.Page("pages/interpretability.py", title="Interpretability"),
    st.Page("pages/compare.py", title="Compare and export"),
    st.Page("pages/glossary.py", title="Glossary"),
)

st.set_page_config(page_title="Steerscope", layout="wide", initial_sidebar_state=250)
page = st.navigation([*PAGES, ADD_SETUP], position="hidden")
st.html(style_sheet())
ignore_wrong_numbers()
with st.sidebar:
    choose_setup()
    st.page_link(ADD_SETUP)
    st.divider()
    for entry in PAGES:
        st.page_link(entry)
st.session_state[THROUGH_APP] = True
page.run()
