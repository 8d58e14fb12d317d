"""The Generate page: one prompt and seed, continued under each way of steering, a column for each."""

import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.evaluation.example import EXAMPLE, TABLES
from core.results.export import export_bytes
from core.scoring.sharpness import AUTO, parse_sharpness
from core.settings import GenerationSettings, ScoreSettings
from core.steering.settings import SteeringSettings
from core.store.reader import Store
from pages.shared.columns import comparison_html
from pages.shared.comparison import COLUMNS, Comparison, Layer, Request, parse_alphas
from pages.shared.entry import enter
from pages.shared.glossary.index import help_text
from pages.shared.links import file_name, link_button
from pages.shared.messages import count, plain, show_error
from pages.shared.resources import ScoredIn, app_store, layers_beside, open_store, saved_result, score, setups
from pages.shared.setups import chosen_setup, open_chosen_store
from pages.shared.topics import chosen_topic, score_settings, topic_controls

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


def _controls(setup: Setup, others: list[str]) -> None:
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


def _request() -> Request:
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


def _cost(request: Request, last: Comparison | None) -> str:
    """The expected time of a run, as far as it is known."""
    due = len(request.edits) * request.generation.max_new_tokens
    made = 0 if last is None else sum(len(c.generation.ids) for c in last.columns if c.generation is not None)
    if not made:
        return f"{count(len(request.edits), 'column')}; the first run loads the model: some seconds."
    return f"{count(len(request.edits), 'column')}, about {max(1, round(due * last.seconds / made))} s."


def _layer(name: str, request: Request) -> Layer:
    (setup, _), store = setups()[name], open_store(name)
    return Layer(setup, store, score(setup, store, request.topic, score_settings()))


def _generate(request: Request, store: Store, scored: ScoredIn) -> None:
    """Streams the columns. Stop, or any other use of the page, ends it and keeps the text so far."""
    comparison = st.session_state["comparison"] = Comparison(request)
    place = st.empty()
    try:
        for _ in comparison.run(store, scored, [_layer(name, request) for name in request.also]):
            place.html(comparison_html(comparison, st.session_state["shade"]))
    except SteerscopeError as exc:
        del st.session_state["comparison"]
        show_error(exc)
        return
    st.rerun()  # all figures are known now, so the best of each row can be marked


def _saved(request: Request) -> Comparison | None:
    """The comparison that comes with the setup, if it is the one asked for."""
    tables = {name: table for name in TABLES if (table := saved_result(request.setup.name, name)) is not None}
    return Comparison.of_example(request, tables) if len(tables) == len(TABLES) else None


def _show(comparison: Comparison, asked: Request, store: Store) -> None:
    request = comparison.request
    if not comparison.complete and not comparison.measured:
        comparison.measure(store)
    st.html(comparison_html(comparison, st.session_state["shade"]))
    if not comparison.complete:
        st.caption(
            f"Stopped: 0 of {count(len(request.edits), 'column')} complete. The figures are of what has been written."
        )
    elif request != asked:
        st.caption("The controls have changed since; Generate brings the columns up to date.")
    if comparison.notes:
        st.caption("  \n".join(map(plain, comparison.notes)))
    with st.container(horizontal=True):
        if st.button("Collect", help="Adds every complete column, with its figures, to Compare and export"):
            _collect(comparison)
        link_button("A link cannot carry a file." if st.session_state.get("file_topic") else "")
        with st.popover("Command", help="The same on the command line"):
            st.code(request.command(), language=None, wrap_lines=True)
            if score_settings() != ScoreSettings():
                st.caption("The command scores with the default settings.")
        with st.popover("Copy as Python", help="One column as a script that needs transformers and sae_lens alone"):
            _script(comparison, store)
        checked = st.button("Check at zero strength", help=help_text("zero strength"))
    if checked:
        _prove(comparison, store)


def _load(comparison: Comparison, store: Store) -> None:
    """Makes the ways of steering of a saved comparison, which has none yet."""
    if any(column.way is None and not column.problem for column in comparison.columns):
        request = comparison.request
        comparison.make_ways(store, score(request.setup, store, request.topic, score_settings()))


def _prove(comparison: Comparison, store: Store) -> None:
    try:
        with st.spinner("Writing every column at zero strength ..."):
            _load(comparison, store)
            comparison.prove(store)
    except SteerscopeError as exc:
        show_error(exc)
    else:
        st.rerun()  # the columns show the result


def _script(comparison: Comparison, store: Store) -> None:
    titles = {column.edit: COLUMNS[column.edit] for column in comparison.measured}
    if not titles:
        st.caption("No column has a text.")
        return
    edit = st.selectbox("Column", list(titles), format_func=titles.get, key="script_column", width=220)
    column = next(column for column in comparison.measured if column.edit == edit)
    if column.way is None and not st.button("Load the model", help="A script holds what the edit needs: some seconds"):
        return
    try:
        _load(comparison, store)
        snippet = comparison.script(column, store)
    except SteerscopeError as exc:
        show_error(exc)
        return
    name = (comparison.request.setup.name, edit)
    with st.container(horizontal=True):
        st.download_button("Script", snippet.code, file_name(*name, suffix="py"), "text/x-python", on_click="ignore")
        for file, table in snippet.files.items():
            st.download_button(
                file,
                export_bytes(table, "csv"),
                file,
                "text/csv",
                on_click="ignore",
                help="The script reads this file in the folder that it is run in",
            )
    st.code(snippet.code, language="python", height=420)


def _collect(comparison: Comparison) -> None:
    rows = comparison.rows()
    try:
        for row in rows:
            app_store().collect(row)
    except SteerscopeError as exc:
        show_error(exc)
    else:
        st.toast(f"{count(len(rows), 'text')} in Compare and export.")


def main() -> None:
    enter("What does each way of steering do to the text?")
    state = st.session_state
    setup, store = open_chosen_store()
    _controls(setup, layers_beside(setup, store))
    comparison: Comparison | None = state.get("comparison")
    try:
        request = _request()
        with st.container(horizontal=True, vertical_alignment="center"):
            pressed = st.button(
                "Generate", type="primary", disabled=not request.edits, help="The same seed for every column"
            )
            st.button("Stop", help="Keeps what has been written")
            st.caption(_cost(request, comparison) if request.edits else "Choose at least one column.")
        # on the first visit, an embedded model generates at once
        first = setup.origin == "embedded" and not chosen_setup()[1] and not state.get("generate_visited")
        state["generate_visited"] = True
        if first:
            comparison = state["comparison"] = _saved(request)
        if request.edits and (pressed or (first and comparison is None)):
            _generate(request, store, score(setup, store, request.topic, score_settings()))
            return
    except SteerscopeError as exc:
        show_error(exc)
        return
    if comparison is not None and comparison.request.setup == setup:
        _show(comparison, request, store)
    else:
        st.markdown("Each column continues the prompt from the same seed. Press **Generate** to see them side by side.")


main()
