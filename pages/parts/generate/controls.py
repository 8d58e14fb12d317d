"""The controls of the Generate page, and the request that they make."""

from contextlib import suppress

import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.evaluation.example import EXAMPLE
from core.scoring.sharpness import AUTO, parse_sharpness
from core.settings import GenerationSettings
from core.steering.settings import SteeringSettings
from core.store.reader import Store
from pages.parts.generate.series import MAX_SEEDS
from pages.shared.comparison import COLUMNS, Request, parse_alphas
from pages.shared.glossary.index import help_text
from pages.shared.names import neuron_markdown, neuron_names
from pages.shared.setups import chosen_setup
from pages.shared.topics import chosen_topic, topic_controls

OWN_POSITIONS = "each edit's own"
POSITIONS = (OWN_POSITIONS, "all", "content", "generated", "prompt", "special", "user", "assistant")
REFERENCES = ("largest", "on the token")
SHARPNESSES = ("1", "1.5", "2", "2.5", "3", AUTO)
PRESETS = {"moderate": EXAMPLE.steering, "the paper's": SteeringSettings()}
MAX_STRENGTH = 4.0  # times the neuron's largest reference activation
CHAT_WAYS = ("clamp", "swap", "add", "vector", "weight", "sae")
SHADINGS = ("contamination", "neurons changed")


def _bound(key: str) -> dict[str, str]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": key, "bind": "query-params"}


def _strength_controls() -> None:
    """How strongly clamp and swap steer."""
    steering = EXAMPLE.steering
    st.number_input("Clamped neurons", 0, value=steering.n, help=help_text("clamp neurons"), **_bound("clamp_n"))
    st.number_input(
        "Multiplier", value=steering.multiplier, step=1.0, help=help_text("multiplier"), **_bound("multiplier")
    )
    st.segmented_control(
        "Reference value",
        REFERENCES,
        default=REFERENCES[0],
        required=True,
        help=help_text("reference value"),
        **_bound("value"),
    )
    st.selectbox(
        "Sharpness of swap",
        SHARPNESSES,
        SHARPNESSES.index(f"{steering.sharpness:g}" if steering.sharpness != AUTO else AUTO),
        accept_new_options=True,
        help=help_text("sharpness"),
        **_bound("sharpness"),
    )


def _edit_controls(others: list[str]) -> None:
    """The controls of the edits; `others` are setups at other layers of the model."""
    _strength_controls()
    st.toggle("Matched count for swap", help=help_text("matched count"), **_bound("matched_count"))
    st.number_input("Alpha of vector", value=1.0, step=0.5, help=help_text("vector alpha"), **_bound("vector_alpha"))
    st.number_input(
        "Within reach: score above",
        0.0,
        1.0,
        value=None,
        step=0.05,
        placeholder="on every token",
        help=help_text("reach"),
        **_bound("reach"),
    )
    st.multiselect(
        "Also steer at",
        others,
        placeholder="this layer alone",
        help=help_text("several layers"),
        **_bound("also"),
    )
    st.selectbox("Positions", POSITIONS, help=help_text("positions"), **_bound("positions"))
    st.toggle("Always the likeliest token", help=help_text("sampling"), **_bound("greedy"))


def _added_controls(store: Store) -> None:
    """The neurons that Add adds, by name, and how strongly."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        typed = st.text_input(
            "Added neurons",
            placeholder="the topic's best; or 17 12",
            help=help_text("added"),
            width=230,
            **_bound("added"),
        )
        st.slider(
            "Strength",
            -MAX_STRENGTH,
            MAX_STRENGTH,
            1.0,
            step=0.1,
            format="%.1f",
            help=help_text("strength"),
            width=280,
            **_bound("strength"),
        )
    with suppress(SteerscopeError):  # the request says what is wrong
        names = neuron_names(store)
        added = parse_alphas(typed, 1.0, store.reference_max())
        if added:
            st.caption(" · ".join(neuron_markdown(names[neuron]) for neuron, _ in added))


def _preset_values(steering: SteeringSettings) -> dict[str, object]:
    """What a preset sets, by the key of its control."""
    sharpness = steering.sharpness if isinstance(steering.sharpness, str) else f"{steering.sharpness:g}"
    return {
        "keep_error": steering.keep_error,
        "sharpness": sharpness,
        "clamp_n": steering.n,
        "multiplier": steering.multiplier,
        "value": REFERENCES[int(steering.current)],
    }


def _on_preset() -> None:
    if chosen := st.session_state["preset"]:
        st.session_state.update(_preset_values(PRESETS[chosen]))


def _presets() -> None:
    """Offers sets of strengths; none is marked where the controls hold other values."""
    state = st.session_state
    now = {name for name, preset in PRESETS.items() if all(state[k] == v for k, v in _preset_values(preset).items())}
    state["preset"] = next(iter(now), None)
    st.segmented_control("Preset", list(PRESETS), key="preset", on_change=_on_preset, help=help_text("preset"))


def show_controls(setup: Setup, store: Store, others: list[str]) -> None:
    """Prompt, columns, topic and settings; `others` are setups at other layers of the model."""
    left, right = st.columns(2, gap="medium")
    with left:
        st.text_area(
            "Prompt", EXAMPLE.prompt, height=68, help="The text that every column continues.", **_bound("prompt")
        )
        columns = st.pills(
            "Columns",
            list(COLUMNS),
            selection_mode="multi",
            default=EXAMPLE.edits,
            format_func=COLUMNS.get,
            wrap=True,
            help=" ".join(f"**{title}**: {help_text(name).split(' [')[0]}" for name, title in COLUMNS.items()),
            **_bound("columns"),
        )
    with right:
        topic_controls()
    _how_controls(setup, store, others, adds="add" in columns, chat=False)


def show_chat_controls(setup: Setup, store: Store, others: list[str]) -> str:
    """System message, the way of steering, topic and settings of a chat; returns the way."""
    left, right = st.columns(2, gap="medium")
    with left:
        st.text_area(
            "System message",
            height=68,
            placeholder="the template's own, if it has one",
            help=help_text("system message"),
            **_bound("system"),
        )
        steered: str = st.segmented_control(
            "Steered by",
            CHAT_WAYS,
            default=CHAT_WAYS[0],
            required=True,
            format_func=COLUMNS.get,
            help="The right column; the left one is the original.",
            **_bound("steered"),
        )
    with right:
        topic_controls()
    _how_controls(setup, store, others, adds=steered == "add", chat=True)
    return steered


def _how_controls(setup: Setup, store: Store, others: list[str], *, adds: bool, chat: bool) -> None:
    """How the columns are generated, steered and shaded; the neurons of Add in sight where it is among the columns."""
    if adds:
        _added_controls(store)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        presets = st.container(width="content")
        st.number_input("Seed", 0, value=EXAMPLE.generation.seed, width=110, help=help_text("seed"), **_bound("seed"))
        if not chat:
            st.number_input("Seeds", 1, MAX_SEEDS, width=100, help=help_text("seeds"), **_bound("n_seeds"))
        st.number_input(
            "New tokens",
            1,
            value=EXAMPLE.generation.max_new_tokens,
            width=120,
            help=help_text("tokens"),
            **_bound("tokens"),
        )
        st.toggle(
            "Keep the SAE's error", EXAMPLE.steering.keep_error, help=help_text("keep error"), **_bound("keep_error")
        )
        if setup.has_template and not chat:
            st.toggle("As a chat", setup.chat, help=help_text("as a chat"), **_bound("chat"))
        with st.popover("Edits", help="How the columns edit, and where"):
            if not adds:
                _added_controls(store)
            _edit_controls(others)
        with presets:  # when the controls that it sets hold their values
            _presets()
        st.segmented_control(
            "Shade by",
            SHADINGS,
            default=SHADINGS[0],
            required=True,
            help="Contamination: the share of a token's activation on neurons far from the topic; in the original, of "
            "its own neurons. Neurons changed: by the edit, on that token.",
            **_bound("shade"),
        )


def asked_request(store: Store, *, chat_by: str | None = None) -> Request:
    """What the controls ask for.

    Args:
        chat_by: in a chat, its way of steering; the original stands beside it, and there is no prompt.

    Raises:
        UsageError: the controls hold values that are not allowed.
        NeuronRangeError: an added neuron that the SAE has not.
    """
    state, (setup, _) = st.session_state, chosen_setup()
    columns = state["columns"] if chat_by is None else ("none", chat_by)
    return Request(
        setup=setup,
        prompt=state["prompt"] if chat_by is None else "",
        topic=chosen_topic(),
        edits=tuple(name for name in COLUMNS if name in columns),
        generation=GenerationSettings(
            max_new_tokens=state["tokens"],
            seed=state["seed"],
            greedy=state["greedy"],
            chat=state.get("chat") if chat_by is None else True,
        ),
        steering=SteeringSettings(
            keep_error=state["keep_error"],
            matched_count=state["matched_count"],
            sharpness=parse_sharpness(state["sharpness"]),
            n=state["clamp_n"],
            multiplier=state["multiplier"],
            current=state["value"] != REFERENCES[0],
            alphas=parse_alphas(state["added"], state["strength"], store.reference_max()),
            vector_alpha=state["vector_alpha"],
            reach=state["reach"],
            positions=None if state["positions"] == OWN_POSITIONS else state["positions"],
        ),
        also=tuple(state["also"]),
        n_seeds=state["n_seeds"] if chat_by is None else 1,
    )
