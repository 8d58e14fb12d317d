"""The controls of the Generate page, and the request that they make."""

import streamlit as st

from core.catalog import Setup
from core.evaluation.example import EXAMPLE
from core.scoring.sharpness import AUTO, parse_sharpness
from core.settings import GenerationSettings
from core.steering.settings import SteeringSettings
from pages.shared.comparison import COLUMNS, Request, parse_alphas
from pages.shared.glossary.index import help_text
from pages.shared.setups import chosen_setup
from pages.shared.topics import chosen_topic, topic_controls

OWN_POSITIONS = "each edit's own"
POSITIONS = (OWN_POSITIONS, "all", "content", "generated", "prompt", "special", "user", "assistant")
REFERENCES = ("largest", "on the token")
SHARPNESSES = ("1", "1.5", "2", "2.5", "3", AUTO)
PRESETS = {"moderate": EXAMPLE.steering, "the paper's": SteeringSettings()}
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
    st.text_input(
        "Added neurons",
        placeholder="the topic's best; or 17:40 12:-5",
        help=help_text("added"),
        **_bound("added"),
    )
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


def show_controls(setup: Setup, others: list[str]) -> None:
    """Prompt, columns, topic and settings; `others` are setups at other layers of the model."""
    left, right = st.columns(2, gap="medium")
    with left:
        st.text_area(
            "Prompt", EXAMPLE.prompt, height=68, help="The text that every column continues.", **_bound("prompt")
        )
        st.pills(
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
    _how_controls(setup, others)


def _how_controls(setup: Setup, others: list[str]) -> None:
    """How the columns are generated, steered and shaded."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        presets = st.container(width="content")
        st.number_input("Seed", 0, value=EXAMPLE.generation.seed, width=120, help=help_text("seed"), **_bound("seed"))
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
        if setup.has_template:
            st.toggle("As a chat", setup.chat, help=help_text("as a chat"), **_bound("chat"))
        with st.popover("Edits", help="How the columns edit, and where"):
            _edit_controls(others)
        with presets:  # when the controls that it sets hold their values
            _presets()
        st.segmented_control(
            "Shade by",
            SHADINGS,
            default=SHADINGS[0],
            required=True,
            help="Contamination: the share of a token's activation on neurons far from the topic. Neurons changed: by "
            "the edit, on that token.",
            **_bound("shade"),
        )


def asked_request() -> Request:
    """What the controls ask for.

    Raises:
        UsageError: the controls hold values that are not allowed.
    """
    state, (setup, _) = st.session_state, chosen_setup()
    return Request(
        setup=setup,
        prompt=state["prompt"],
        topic=chosen_topic(),
        edits=tuple(name for name in COLUMNS if name in state["columns"]),
        generation=GenerationSettings(
            max_new_tokens=state["tokens"], seed=state["seed"], greedy=state["greedy"], chat=state.get("chat")
        ),
        steering=SteeringSettings(
            keep_error=state["keep_error"],
            matched_count=state["matched_count"],
            sharpness=parse_sharpness(state["sharpness"]),
            n=state["clamp_n"],
            multiplier=state["multiplier"],
            current=state["value"] != REFERENCES[0],
            alphas=parse_alphas(state["added"]),
            vector_alpha=state["vector_alpha"],
            reach=state["reach"],
            positions=None if state["positions"] == OWN_POSITIONS else state["positions"],
        ),
        also=tuple(state["also"]),
    )
