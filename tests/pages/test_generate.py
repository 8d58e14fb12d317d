"""The Generate page shows the texts and figures that the workbench makes; stopping leaves nothing steered."""

import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import streamlit as st
import torch
from safetensors.torch import load
from streamlit.testing.v1 import AppTest

from core.build.pipeline import build
from core.catalog import Setup, find_setup
from core.cli import main as run_command
from core.evaluation.example import EXAMPLE
from core.results.app_store import AppStore
from core.settings import GenerationSettings, ScoreSettings
from core.steering.chat import Chat
from core.steering.settings import SteeringSettings
from core.steering.snippet import SCORES_FILE, python_snippet
from core.steering.workbench import FIGURE_NAMES, WAY_NAMES, Column, Workbench, across_layers, open_workbench
from core.store.reader import Store
from core.text.prompts import parse_topic
from pages.parts.generate.series import MIN_SEEDS, Series
from pages.shared.columns import FIGURES, number, shade_range
from pages.shared.comparison import COLUMNS, Comparison, Request, format_alphas, parse_alphas
from pages.shared.comparison import Column as ShownColumn
from pages.shared.resources import score
from tests.pages.conftest import MIN_PROMPTS, OTHER_SETUP, SETUP, OpenPage, checked, html_of

PROMPT = "My heart is broken, so I should"
TOPIC = parse_topic("heart surgery")
SCORING = ScoreSettings(min_prompts=MIN_PROMPTS)
SHORT = {"tokens": "6", "seed": "3"}
GENERATION = GenerationSettings(max_new_tokens=6, seed=3)


@pytest.fixture
def bench(store: Store, user_setups: Path) -> Workbench:
    return open_workbench(find_setup(SETUP, user_setups), store)


def expected_columns(bench: Workbench, *names: str, settings: SteeringSettings | None = None) -> list[Column]:
    scored = bench.score(TOPIC, SCORING)
    ways = [bench.way(name, scored, settings or EXAMPLE.steering) for name in names]
    return bench.columns(ways, [PROMPT], scored, GENERATION)


def generate(app: AppTest) -> AppTest:
    next(button for button in app.button if button.label == "Generate").click().run()
    return checked(app)


def shown_texts(app: AppTest) -> list[str]:
    """The continuations, by column."""
    sections = re.findall(r"<section>(.*?)</section>", html_of(app), flags=re.DOTALL)
    return [
        unescape("".join(re.findall(r'<span class="ss(?: ss-\d+)?"[^>]*>(.*?)</span>', section, flags=re.DOTALL)))
        for section in sections
    ]


def plain_text(column: Column) -> str:
    return "".join(column.generations[0].tokens).replace("\n", "↵\n").replace("\t", "⇥\t")


def test_columns_are_what_the_workbench_writes(open_page: OpenPage, bench: Workbench) -> None:
    app = generate(open_page("generate", **SHORT))
    columns = expected_columns(bench, "none", "sae", "clamp", "swap")
    assert shown_texts(app) == [plain_text(column) for column in columns]
    for column in columns:
        made = column.generations[0]
        assert f"{made.positions_edited} of {made.positions_run} positions edited · seed 3 · " in html_of(app)
        for figure in FIGURE_NAMES:
            assert f">{number(column.figures[0][figure])}</td>" in html_of(app)


def test_controls_of_a_link_reach_the_edits(open_page: OpenPage, bench: Workbench) -> None:
    settings = SteeringSettings(
        keep_error=False, matched_count=True, sharpness=2.5, n=2, multiplier=1.5, current=True, positions="generated"
    )
    app = open_page(
        "generate",
        **SHORT,
        columns="Weight",
        keep_error="false",
        matched_count="true",
        sharpness="2.5",
        clamp_n="2",
        multiplier="1.5",
        value="on the token",
        positions="generated",
    )
    app.button_group(key="columns").set_value(["swap", "clamp"]).run()
    columns = expected_columns(bench, "clamp", "swap", settings=settings)
    assert shown_texts(generate(app)) == [plain_text(column) for column in columns]
    for column in columns:
        assert column.figures != expected_columns(bench, column.name)[0].figures  # the controls make a difference
        for figure in FIGURE_NAMES:
            assert f">{number(column.figures[0][figure])}</td>" in html_of(app)


def test_presets_set_the_strengths(open_page: OpenPage) -> None:
    app = open_page("generate", **SHORT, columns="SAE")
    assert app.button_group(key="preset").value == "moderate"
    app.button_group(key="preset").set_value("the paper's").run()
    assert not checked(app).toggle(key="keep_error").value
    assert app.number_input(key="multiplier").value == 10.0
    assert app.selectbox(key="sharpness").value == "1"
    app.number_input(key="multiplier").set_value(3.0).run()
    assert checked(app).button_group(key="preset").value is None
    app.button_group(key="preset").set_value("moderate").run()
    assert checked(app).toggle(key="keep_error").value
    assert app.number_input(key="multiplier").value == EXAMPLE.steering.multiplier


def test_every_column_is_what_the_workbench_writes(open_page: OpenPage, bench: Workbench) -> None:
    settings = replace(EXAMPLE.steering, alphas=((17, 8.0), (3, -2.5)), vector_alpha=3.0, reach=0.5)
    app = open_page("generate", **SHORT, columns="SAE", added="17:8, 3:-2.5", vector_alpha="3", reach="0.5")
    app.button_group(key="columns").set_value(list(COLUMNS)).run()
    columns = expected_columns(bench, *COLUMNS, settings=settings)
    assert shown_texts(generate(app)) == [plain_text(column) for column in columns]
    assert 'style="--columns:4"' in html_of(app)  # two rows of four
    assert "Write about heart surgery: My heart is broken" in html_of(app)
    notes = [re.sub(r"\[(\d+)[^]]*\]\([^)]*\)", r"\1", caption.value.replace("\\", "")) for caption in app.caption]
    assert any("8 times that of neuron 17, -2.5 times that of neuron 3" in note for note in notes)
    assert any("Vector adds 3 times the difference in means" in note for note in notes)


def test_zero_strength_is_checked_when_asked(open_page: OpenPage) -> None:
    app = open_page("generate", **SHORT, columns="SAE", keep_error="false")
    app.button_group(key="columns").set_value(["none", "swap", "add", "vector"]).run()
    assert "at zero strength" not in html_of(generate(app))
    next(button for button in app.button if button.label == "Check at zero strength").click().run()
    html = html_of(checked(app))
    assert html.count("at zero strength identical to Original") == 2
    assert html.count("at zero strength identical to SAE at the same positions") == 1
    assert "DIFFERS" not in html


def test_script_of_a_column_is_offered_with_its_scores(open_page: OpenPage, bench: Workbench) -> None:
    app = generate(open_page("generate", **SHORT))
    assert app.selectbox(key="script_column").options == ["Original", "SAE", "Clamp", "Swap"]
    scored = bench.score(TOPIC, SCORING)
    for name in ("none", "swap"):
        app.selectbox(key="script_column").set_value(name).run()
        way = bench.way(name, scored, EXAMPLE.steering)
        expected = python_snippet(bench.model, bench.sae, way, PROMPT, GENERATION)
        assert [code.value for code in checked(app).code if code.language == "python"] == [expected.code.strip()]
        offered = [button.label for button in app.get("download_button")]
        assert ("Script" in offered, SCORES_FILE in offered) == (True, name == "swap")


def test_vector_of_a_column_is_what_its_edit_adds(open_page: OpenPage, bench: Workbench, store: Store) -> None:
    app = open_page("generate", **SHORT, added="17:8")
    app.button_group(key="columns").set_value(["none", "add", "prompt"]).run()
    generate(app)
    assert app.selectbox(key="vector_column").options == ["Add"]  # text and prompt have none
    offered = [button.label for button in app.get("download_button")]
    assert {"safetensors", "llama.cpp control vector"} <= set(offered)
    shown: Comparison = app.session_state["series"].runs[0]
    (column,) = [column for column in shown.columns if column.edit == "add"]
    direction = load(shown.vector(column, store, ".safetensors"))["direction"]
    torch.testing.assert_close(direction, 8 * bench.sae.W_dec[17])
    assert shown.vector(column, store, ".gguf").startswith(b"GGUF")


@pytest.fixture
def earlier(stores: Path, user_setups: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """A built setup of the same model at the layer before."""
    (table,) = re.findall(r"\[setups\.gpt2-jumprelu\]\n(?:.+\n)*", user_setups.read_text())
    added = table.replace("gpt2-jumprelu]", "earlier]").replace("blocks.1.", "blocks.0.")
    both = user_setups.with_name("layers.toml")
    both.write_text(f"{user_setups.read_text()}\n{added}")
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(both))
    setup = find_setup("earlier", both)
    build(setup, stores)
    return setup


def test_another_layer_is_steered_too(open_page: OpenPage, stores: Path, earlier: Setup, bench: Workbench) -> None:
    app = open_page("generate", **SHORT, columns="SAE", also="earlier")
    app.button_group(key="columns").set_value(["none", "swap"]).run()
    assert app.multiselect(key="also").options == ["earlier"]
    with Store.open(stores, "earlier") as store:
        other = open_workbench(earlier, store, beside=bench)
        scored = [each.score(TOPIC, SCORING) for each in (bench, other)]
        ways = [across_layers([bench, other], name, scored, EXAMPLE.steering) for name in ("none", "swap")]
        columns = bench.columns(ways, [PROMPT], scored[0], GENERATION)
    assert shown_texts(generate(app)) == [plain_text(column) for column in columns]
    assert shown_texts(app)[1] != plain_text(expected_columns(bench, "swap")[0])
    assert any(code.value.endswith("--also earlier") for code in app.code)
    app.selectbox(key="script_column").set_value("swap").run()
    assert [error.value.replace("\\", "") for error in checked(app).error] == [
        "a script shows edits at one layer; leave the other layers out"
    ]


def test_layers_of_other_models_and_stores_not_built_are_not_offered(open_page: OpenPage) -> None:
    assert open_page("generate", **SHORT, columns="Original").multiselect(key="also").options == []


@pytest.mark.parametrize(
    ("text", "alphas"),
    [("", ()), ("17:40", ((17, 40.0),)), (" 17:40, 12:-5.5 ", ((17, 40.0), (12, -5.5)))],
)
def test_added_neurons_are_read_and_written(text: str, alphas: tuple[tuple[int, float], ...]) -> None:
    assert parse_alphas(text) == alphas
    assert parse_alphas(format_alphas(alphas)) == alphas


def test_results_survive_a_change_of_another_control(open_page: OpenPage) -> None:
    app = generate(open_page("generate", **SHORT))
    before = shown_texts(app)
    app.button_group(key="shade").set_value("neurons changed").run()
    assert shown_texts(checked(app)) == before
    app.number_input(key="seed").set_value(4).run()
    assert shown_texts(checked(app)) == before
    assert any("controls have changed" in caption.value for caption in app.caption)


def test_results_of_one_setup_are_not_shown_for_another(open_page: OpenPage) -> None:
    app = generate(open_page("generate", **SHORT))
    app.selectbox(key="setup").set_value(OTHER_SETUP).run()
    assert shown_texts(checked(app)) == []


def test_what_swap_can_change_is_said(open_page: OpenPage) -> None:
    app = generate(open_page("generate", **SHORT))
    assert any("swap chooses all 8 active neurons" in caption.value for caption in app.caption)


def test_prompt_is_shown_and_not_run(open_page: OpenPage) -> None:
    app = generate(open_page("generate", **SHORT, prompt="<img src=x onerror=alert(1)> & more"))
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; more" in html_of(app)
    assert "<img" not in html_of(app)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "word " * 300}, "exceed the context of"),
        ({"topic": ""}, "the topic is empty"),
        ({"min_prompts": "97"}, "at least 97 reference prompts"),
        ({"added": "x"}, "added neurons are written 17 12, or 17:40 12:-5 with alphas; 'x' is not"),
        ({"added": "999"}, "neuron 999 is out of range"),
        ({"positions": "user"}, "positions 'user' need a chat"),
    ],
)
def test_what_cannot_be_generated_says_why(query: dict[str, str], problem: str, open_page: OpenPage) -> None:
    app = open_page("generate", **{**SHORT, **query})
    if generate_buttons := [button for button in app.button if button.label == "Generate"]:
        generate_buttons[0].click().run()
    shown = [error.value.replace("\\", "") for error in checked(app).error] + [html_of(app)]
    assert any(problem in text for text in shown)


def test_column_that_cannot_be_made_says_why_and_the_others_stay(open_page: OpenPage) -> None:
    html = html_of(generate(open_page("generate", **SHORT, clamp_n="99999")))
    (problem,) = re.findall(r'<p class="ss-problem">(.*?)</p>', html)
    assert problem == "neuron 99999 is out of range: this SAE has neurons 0 to 191"
    assert html.count('<table class="ss-figures">') == 3


@pytest.mark.parametrize(
    ("multiplier", "problem"), [("1e30", "the edit is too strong"), ("1e300", "a finite multiplier, not 5 and 1e+300")]
)
def test_huge_multiplier_says_why(multiplier: str, problem: str, open_page: OpenPage) -> None:
    html = html_of(generate(open_page("generate", **SHORT, multiplier=multiplier)))
    (shown,) = re.findall(r'<p class="ss-problem">(.*?)</p>', html)
    assert problem in shown
    assert html.count('<table class="ss-figures">') == 3


@pytest.mark.parametrize(
    "query",
    [
        {"seed": "-1"},
        {"seed": "9" * 30},
        {"tokens": "0"},
        {"tokens": "1e99"},
        {"multiplier": "nan"},
        {"multiplier": "inf"},
        {"columns": "x"},
        {"positions": "x"},
        {"reach": "7"},
        {"vector_alpha": "nan"},
    ],
)
def test_nonsense_in_a_link_leaves_the_default(query: dict[str, str], open_page: OpenPage) -> None:
    app = generate(open_page("generate", **{**SHORT, **query}))
    assert len(shown_texts(app)) == 4


def test_collected_columns_are_kept_with_their_figures(open_page: OpenPage, stores: Path, bench: Workbench) -> None:
    app = generate(open_page("generate", **SHORT))
    next(button for button in app.button if button.label == "Collect").click().run()
    rows = AppStore(stores).collected()
    assert checked(app).toast[0].value == "4 texts in Compare and export."
    assert rows["edit"].tolist() == ["none", "sae", "clamp", "swap"]
    for edit, row in zip(rows["edit"], rows.to_dict("records"), strict=True):
        (column,) = expected_columns(bench, edit)
        assert row["text"] == column.generations[0].text
        assert (row["seed"], row["max_new_tokens"], row["topic"]) == (3, 6, "heart surgery")
        for figure in FIGURE_NAMES:
            assert row[figure] == pytest.approx(column.figures[0][figure], rel=1e-4, nan_ok=True)


def test_command_writes_the_same_texts(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steering = {"added": "17:8", "vector_alpha": "3", "reach": "0.5", "keep_error": "false"}
    app = open_page("generate", **{**SHORT, **steering, "min_prompts": "20"}, columns="Original", topic="law courts")
    app.button_group(key="columns").set_value(["none", "swap", "add", "vector", "prompt"]).run()
    generate(app)
    command = next(code.value for code in app.code if code.value.startswith("python -m core generate"))
    capsys.readouterr()
    assert run_command([*shlex.split(command)[3:], "--json"]) == 0
    texts = [row["text"] for row in json.loads(capsys.readouterr().out)]
    assert [text.replace("↵", "") for text in shown_texts(app)] == texts


# ---- the comparison itself ----


@pytest.fixture
def request_of_all(stores: Path, user_setups: Path) -> Iterator[Request]:
    yield Request(
        setup=find_setup(SETUP, user_setups),
        prompt=PROMPT,
        topic=TOPIC,
        edits=("clamp", "none"),
        generation=GENERATION,
        steering=SteeringSettings(),
    )
    st.cache_resource.clear()


def test_stopped_comparison_keeps_its_tokens_and_leaves_nothing_steered(
    request_of_all: Request, store: Store, bench: Workbench
) -> None:
    scored = score(request_of_all.setup, store, TOPIC, SCORING)
    stopped = Comparison(request_of_all)
    running = stopped.run(store, scored)
    next(running), next(running)
    running.close()  # what happens to it when a rerun interrupts the page
    assert [len(column.generation.tokens) for column in stopped.columns] == [2, 2]
    assert not stopped.complete
    stopped.measure(store)
    assert [column.figures["n_tokens"] for column in stopped.columns] == [2, 2]
    assert stopped.rows() == []  # only what is complete is collected
    again = Comparison(request_of_all)
    for _ in again.run(store, scored):
        pass
    assert again.columns[1].generation.text == expected_columns(bench, "none")[0].generations[0].text
    assert [row["edit"] for row in again.rows()] == ["clamp", "none"]


def test_columns_are_the_edits_of_core() -> None:
    assert tuple(COLUMNS) == WAY_NAMES
    assert sorted(figure for figure, _, _ in FIGURES) == sorted(FIGURE_NAMES)


def measured_series(request: Request, n: int, **perplexities: list[float]) -> Series:
    """A series with made-up figures: of each column one value a seed."""
    runs = []
    for i in range(n):
        columns = [ShownColumn(edit, figures={"perplexity": values[i]}) for edit, values in perplexities.items()]
        runs.append(Comparison(request.of_seed(i), columns, complete=True))
    return Series(request, runs)


def test_best_is_told_only_where_intervals_tell_columns_apart(request_of_all: Request) -> None:
    lower, higher = [10.0, 11.0, 12.0, 10.5, 11.5], [12.0, 12.5, 14.0, 12.1, 13.0]
    crossing = [9.0, 14.0, 11.0, 12.0, 10.0]
    assert MIN_SEEDS == 5
    series = measured_series(request_of_all, 5, clamp=lower, none=higher)
    assert series.best("perplexity", "low") == "clamp"
    assert series.best("perplexity", "high") == "none"
    assert series.best("perplexity", None) is None
    assert measured_series(request_of_all, 4, clamp=lower, none=higher).best("perplexity", "low") is None
    assert measured_series(request_of_all, 5, clamp=lower, none=crossing).best("perplexity", "low") is None
    assert measured_series(request_of_all, 5, clamp=lower, none=[math.nan] * 5).best("perplexity", "low") is None
    interval = series.interval("clamp", "perplexity")
    assert (interval.mean, interval.n) == (11.0, 5)
    assert 10.0 < interval.low < 11.0 < interval.high < 12.0


def test_seeds_are_written_in_turn_and_more_go_on(open_page: OpenPage, bench: Workbench) -> None:
    app = generate(open_page("generate", **SHORT, n_seeds="2"))
    first = [plain_text(column) for column in expected_columns(bench, *EXAMPLE.edits)]
    assert shown_texts(app) == first
    assert "ss-best" not in html_of(app)
    assert " to " in re.search(r"<td>[^<]+<small>([^<]+)</small></td>", html_of(app))[1]
    series = app.session_state["series"]
    app.button_group(key="shown_seed").set_value("4").run()
    scored = bench.score(TOPIC, SCORING)
    ways = [bench.way(name, scored, EXAMPLE.steering) for name in EXAMPLE.edits]
    second = bench.columns(ways, [PROMPT], scored, replace(GENERATION, seed=4))
    assert shown_texts(checked(app)) == [plain_text(column) for column in second]
    app.number_input(key="n_seeds").set_value(3).run()
    assert app.session_state["series"] is series
    generate(app)
    runs = app.session_state["series"].runs
    assert runs[:2] == series.runs  # what was written stays
    assert [run.request.generation.seed for run in runs] == [3, 4, 5]


def test_original_is_shaded_by_its_own_neurons_and_tokens_differ(open_page: OpenPage) -> None:
    app = generate(open_page("generate", **{**SHORT, "tokens": "12"}))
    sections = re.findall(r"<section>(.*?)</section>", html_of(app), flags=re.DOTALL)
    steps = [set(re.findall(r'class="ss ss-(\d+)"', section)) for section in sections]
    assert all(len(found) > 2 for found in steps)
    assert "not edited; contamination share of its own neurons" in sections[0]
    (run,) = app.session_state["series"].runs
    low, high = shade_range([column.generation for column in run.columns], "contamination")
    assert 0 < low < high <= 1
    assert f"{low:.2f} or less" in html_of(app)
    assert math.isnan(run.columns[0].figures["contamination"])


def test_columns_look_stale_when_a_control_changes(open_page: OpenPage) -> None:
    app = generate(open_page("generate", **SHORT))
    assert "ss-columns ss-stale" not in html_of(app)
    app.toggle(key="keep_error").set_value(False).run()
    assert "ss-columns ss-stale" in html_of(checked(app))
    app.toggle(key="keep_error").set_value(True).run()
    assert "ss-columns ss-stale" not in html_of(checked(app))


def test_chosen_neurons_of_a_link_are_added_at_a_strength(open_page: OpenPage, bench: Workbench) -> None:
    largest = bench.store.reference_max()
    first, second = (int(n) for n in (-largest).argsort()[:2])
    app = open_page("generate", **SHORT, columns="Add", added=f"{first} {second}", strength="2")
    assert app.slider(key="strength").value == 2.0
    assert any(f"[{first}" in caption.value and f"[{second}" in caption.value for caption in app.caption)
    alphas = tuple((n, float(f"{2 * largest[n]:.4g}")) for n in (first, second))
    (column,) = expected_columns(bench, "add", settings=replace(EXAMPLE.steering, alphas=alphas))
    assert shown_texts(generate(app)) == [plain_text(column)]
    app.slider(key="strength").set_value(-1.0).run()
    assert "ss-stale" in html_of(checked(app))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1.00"),
        (0.04167, "0.0417"),
        (130.2, "130"),
        (3258.7, "3,259"),
        (-12.71, "-12.7"),
        (math.nan, "n/a"),
        (0.0, "0.00"),
    ],
)
def test_numbers_have_three_significant_figures(value: float, shown: str) -> None:
    assert number(value) == shown


# ---- chat ----


def say(app: AppTest, words: str) -> AppTest:
    app.chat_input[0].set_value(words).run()
    return checked(app)


def shown_answers(app: AppTest) -> list[list[str]]:
    """The answers of every turn, by column."""
    found = []
    for block in app.main.get("html"):
        if "ss-said" in block.value:
            texts = re.findall(r'<p class="ss-text" dir="auto">(.*?)</p>', block.value, flags=re.DOTALL)
            found.append([unescape(re.sub(r"</?span[^>]*>", "", text)) for text in texts])
    return found


@pytest.fixture
def chat_bench(stores: Path, user_setups: Path) -> Iterator[Workbench]:
    with Store.open(stores, OTHER_SETUP) as opened:
        yield open_workbench(find_setup(OTHER_SETUP, user_setups), opened)


def test_chat_answers_turn_by_turn_in_both_columns(open_page: OpenPage, chat_bench: Workbench) -> None:
    steering = {"steered": "Add", "added": "5:40", "system": "Be brief."}
    app = open_page("generate", **SHORT, setup=OTHER_SETUP, mode="Chat", **steering)
    say(say(app, "Good morning"), "<b>And</b> then?")
    scored = chat_bench.score(TOPIC, SCORING)
    settings = replace(EXAMPLE.steering, alphas=((5, 40.0),))
    ways = [chat_bench.way(name, scored, settings) for name in ("none", "add")]
    expected = Chat()
    for words in ("Good morning", "<b>And</b> then?"):
        expected.say(words, 3)
        expected.reply(chat_bench, ways, scored, GENERATION, "Be brief.").finish()
    assert shown_answers(app) == [
        ["".join(answer.tokens).replace("\n", "↵\n").replace("\t", "⇥\t") for answer in turn.answers]
        for turn in expected.turns
    ]
    assert "&lt;b&gt;And&lt;/b&gt; then?" in html_of(app)
    assert "<b>And" not in html_of(app)
    for figures in chat_bench.figures(expected.turns[1].answers, scored):
        assert f">{number(figures['perplexity'])}</td>" in html_of(app)


def test_chat_turn_is_regenerated_and_what_followed_goes(open_page: OpenPage) -> None:
    app = open_page("generate", **SHORT, setup=OTHER_SETUP, mode="Chat")
    say(say(app, "Good morning"), "And then?")
    first = shown_answers(app)[0]
    app.button(key="again 0").click().run()
    (again,) = shown_answers(checked(app))
    assert again != first
    assert "seed 4" in html_of(app)


def test_chat_is_collected_and_forgotten(open_page: OpenPage, stores: Path) -> None:
    app = say(open_page("generate", **SHORT, setup=OTHER_SETUP, mode="Chat"), "Good morning")
    next(button for button in app.button if button.label == "Collect").click().run()
    rows = AppStore(stores).collected()
    assert checked(app).toast[0].value == "2 texts in Compare and export."
    assert rows[["edit", "prompt", "turn"]].values.tolist() == [
        ["none", "Good morning", 1],
        ["clamp", "Good morning", 1],
    ]
    next(button for button in app.button if button.label == "New conversation").click().run()
    assert shown_answers(checked(app)) == []


def test_chat_message_too_long_says_why_and_the_rest_stays(open_page: OpenPage) -> None:
    app = say(open_page("generate", **SHORT, setup=OTHER_SETUP, mode="Chat"), "Good morning")
    say(app, "word " * 400)
    assert any("exceed the context of" in error.value for error in app.error)
    app.button_group(key="shade").set_value("neurons changed").run()
    assert len(shown_answers(checked(app))) == 1


def test_setup_without_template_has_no_chat(open_page: OpenPage) -> None:
    assert open_page("generate", **SHORT, mode="Chat").chat_input == []
