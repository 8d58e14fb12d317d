"""The topic's controls, the same on every page that needs one: typed, bundled, or from a file."""

import tempfile
from pathlib import Path
from typing import get_args

import streamlit as st

from core.errors import SteerscopeError, UsageError, shortened
from core.settings import Distance, ScoreSettings, Summary, Variant
from core.text.prompts import PROMPT_SUFFIXES, Topic, bundled_topics, parse_topic, read_topic
from pages.shared.glossary.index import help_text
from pages.shared.messages import show_error

DEFAULT_TOPIC = "heart surgery"
# Streamlit takes over a text area's value when the area is left; alone, Enter would start a new line
_ENTER_APPLIES = """<script>
if (!window.steerscopeEnterApplies) {
  window.steerscopeEnterApplies = true;
  document.addEventListener("keydown", (event) => {
    const area = event.target.closest?.(".st-key-topic textarea");
    if (area && event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      area.blur();
    }
  }, true);
}
</script>"""


def _file_topic(name: str, content: bytes) -> Topic:
    """A topic from an uploaded file, whose name becomes no path.

    Raises:
        UsageError: the file cannot be read, is too large, or has too many prompts.
    """
    given = Path(name)
    suffix = given.suffix.lower() if given.suffix.lower() in PROMPT_SUFFIXES else ".unknown"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"uploaded{suffix}"
        path.write_bytes(content)
        try:
            return Topic(given.stem, given.stem, read_topic(path).prompts)
        except SteerscopeError as exc:
            raise UsageError(str(exc).replace(f"'{path}'", shortened(given.name))) from exc


def _forget_file() -> None:
    state = st.session_state
    state["file_topic"], state["file_error"] = None, None
    state["file_number"] = state.get("file_number", 0) + 1  # a new key empties the uploader


def _on_typed() -> None:
    st.session_state["neuron"] = None  # None: the best neuron of the new topic
    if st.session_state["topic"].strip():
        st.session_state["bundled"] = None
        _forget_file()


def _on_bundled() -> None:
    st.session_state["neuron"] = None
    if st.session_state["bundled"]:
        st.session_state["topic"] = ""
        _forget_file()


def _on_file() -> None:
    state = st.session_state
    upload = state[f"file_{state.get('file_number', 0)}"]
    state["neuron"] = state["file_topic"] = state["file_error"] = None
    if upload is None:
        return
    try:
        state["file_topic"] = _file_topic(upload.name, upload.getvalue())
    except UsageError as exc:
        state["file_error"] = str(exc)
    else:
        state["topic"], state["bundled"] = "", None


def _placeholder() -> str:
    state = st.session_state
    if topic := state.get("file_topic"):
        return f"{topic.title}: {len(topic.prompts):,} prompts from a file. Type here for another topic."
    if name := state.get("bundled"):
        topic = bundled_topics()[name]
        return f"{topic.title}: {len(topic.prompts)} bundled prompts. Type here for another topic."
    return "Type a topic"


def topic_controls() -> None:
    """Shows the controls; `chosen_topic` and `score_settings` read them."""
    state, topics = st.session_state, bundled_topics()
    if "bundled" in st.query_params and "topic" not in st.query_params and "topic" not in state:
        state["topic"] = ""  # a link with a bundled topic overrides the default text
    above = st.container()  # filled last, as its content depends on the controls below
    with st.container(horizontal=True, gap="small"):
        st.selectbox(
            "Bundled topic",
            list(topics),
            index=None,
            key="bundled",
            bind="query-params",
            format_func=lambda name: topics[name].title,
            placeholder="or a bundled topic",
            label_visibility="collapsed",
            on_change=_on_bundled,
            width=240,
        )
        with st.popover("File", help="A topic from a file of prompts"):
            st.file_uploader(
                "A file of prompts: .txt has one a line; .csv, .jsonl and .parquet a column `text` or `prompt`",
                [suffix.removeprefix(".") for suffix in PROMPT_SUFFIXES],
                key=f"file_{state.get('file_number', 0)}",
                on_change=_on_file,
                help="The file is read, never kept; a link cannot carry it.",
            )
        with st.popover("Scoring", help="How a neuron's prompts become its score"):
            _score_controls()
    above.text_area(
        "Topic (each line is one prompt)",
        DEFAULT_TOPIC,
        key="topic",
        bind="query-params",
        height=68,
        placeholder=_placeholder(),
        on_change=_on_typed,
        help=f"{help_text('topic')} Enter applies, Shift+Enter starts a new line.",
    )
    st.html(_ENTER_APPLIES, unsafe_allow_javascript=True)
    if problem := state.get("file_error"):
        show_error(problem)


def _score_controls() -> None:
    defaults = ScoreSettings()
    for key, kind in (("summary", Summary), ("distance", Distance), ("variant", Variant)):
        st.segmented_control(
            key.capitalize(),
            get_args(kind),
            default=getattr(defaults, key),
            required=True,
            key=key,
            bind="query-params",
            help=help_text(key),
        )
    st.number_input(
        "Least prompts",
        1,
        value=defaults.min_prompts,
        key="min_prompts",
        bind="query-params",
        help=help_text("min prompts"),
    )
    st.number_input(
        "Largest density",
        0.001,
        1.0,
        value=None,
        step=0.05,
        format="%.3f",
        key="max_density",
        bind="query-params",
        placeholder="none",
        help=help_text("max density"),
    )


def chosen_topic() -> Topic:
    """The topic that the controls give.

    Raises:
        EmptyTopicError, TopicTooLongError: see `parse_topic`.
    """
    state = st.session_state
    if topic := state.get("file_topic"):
        return topic
    if name := state.get("bundled"):
        return bundled_topics()[name]
    return parse_topic(state["topic"])


def topic_title(name: str) -> str:
    """The title of a bundled topic; for any other topic, its name."""
    known = bundled_topics().get(name)
    return known.title if known else name


def score_settings() -> ScoreSettings:
    """The scoring settings that the controls give.

    Raises:
        SettingsError: a value is out of range.
    """
    state = st.session_state
    return ScoreSettings(
        summary=state["summary"],
        distance=state["distance"],
        variant=state["variant"],
        min_prompts=state["min_prompts"],
        max_density=state["max_density"],
    )
