"""The Special tokens page shows the answers, sweeps and windows that core makes; stopping leaves nothing steered."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from core.catalog import find_setup
from core.results.app_store import AppStore
from core.results.names import open_names
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.sweep.request import means_table, random_neuron, rows_table
from core.sweep.run import answer_rows, answers, auto_alphas, mean_residual_norm
from core.sweep.windows import IMPROVING, find_windows
from core.text.prompts import questions
from pages.parts.special_tokens.amplified import FIGURES, Answers, Asked, answers_html, marked_changes
from pages.parts.special_tokens.template_tokens import default_neuron
from pages.shared.columns import number
from pages.shared.glossary.index import TERMS
from tests.pages.conftest import OTHER_SETUP, SETUP, OpenPage, checked, html_of

PAGE = "special_tokens"
NEURON = 5


@pytest.fixture
def chat_store(stores: Path) -> Iterator[Store]:
    with Store.open(stores, OTHER_SETUP) as opened:
        yield opened


@pytest.fixture
def bench(chat_store: Store, user_setups: Path) -> Workbench:
    return open_workbench(find_setup(OTHER_SETUP, user_setups), chat_store)


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click().run()
    return checked(app)


def loaded(open_page: OpenPage, **query: str) -> AppTest:
    """The page with its model loaded: the answers to what the link asks for are written."""
    return press(open_page(PAGE, setup=OTHER_SETUP, neuron=str(NEURON), **query), "Load the model")


def shown_answers(app: AppTest) -> list[str]:
    sections = re.findall(r'<section[^>]*>.*?<p class="ss-text" dir="auto">(.*?)</p>', html_of(app), flags=re.DOTALL)
    return [unescape(re.sub(r"</?span[^>]*>", "", section)) for section in sections]


def captions(app: AppTest) -> str:
    return "\n".join(caption.value.replace("\\", "") for caption in app.caption)


# ---- answers ----


def test_answers_are_those_of_core(open_page: OpenPage, bench: Workbench) -> None:
    app = loaded(open_page, question="3", alpha="4")
    made = answers(bench, NEURON, questions()[2], (0.0, 4.0), 64).finish()
    assert shown_answers(app) == [g.text.strip() for g in made]
    assert made[0].ids != made[1].ids
    assert any(questions()[2] in markdown.value.replace("\\", "") for markdown in app.markdown)
    for row in answer_rows(bench, NEURON, questions()[2], (0.0, 4.0), made).to_dict("records"):
        for name in FIGURES[:-1]:
            assert f"{TERMS[name].title}</a></th><td>{number(row[name])}</td>" in html_of(app)


def test_slider_reaches_twice_the_residual_norm(open_page: OpenPage, bench: Workbench) -> None:
    app = loaded(open_page)
    norm = float(bench.sae.W_dec[NEURON].norm())
    assert app.slider(key="alpha").max == auto_alphas(mean_residual_norm(bench, questions()), norm)[-1]


def test_moving_the_slider_answers_anew_and_back_again_from_memory(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = loaded(open_page, alpha="4")
    first = shown_answers(app)
    took(app, 1.0)  # however busy the machine is
    app.slider(key="alpha").set_value(9.0).run()
    assert shown_answers(checked(app))[0] == first[0]
    assert shown_answers(app)[1] != first[1]
    monkeypatch.setattr("core.sweep.run.answers", lambda *_: pytest.fail("it was answered before"))
    app.slider(key="alpha").set_value(4.0).run()
    assert shown_answers(checked(app)) == first


def test_alpha_0_shows_one_answer(open_page: OpenPage) -> None:
    assert len(shown_answers(loaded(open_page, alpha="0"))) == 1


def took(app: AppTest, seconds: float) -> None:
    """Lets the last answer have taken so long."""
    known = app.session_state["amplified"].seconds
    known.update(dict.fromkeys(known, seconds))


def test_slow_model_waits_for_a_button_and_what_was_seen_stays(open_page: OpenPage) -> None:
    app = loaded(open_page, alpha="4")
    first = shown_answers(app)
    took(app, 70.0)
    app.slider(key="alpha").set_value(9.0).run()
    assert shown_answers(checked(app)) == first  # shaded or not, the words are the same
    assert html_of(app).count('<section class="ss-stale">') == 1  # the steered one
    assert "× 4</h3>" in html_of(app)
    assert "About 70 s." in captions(app)
    both = shown_answers(press(app, "Answer"))
    assert both[0] == first[0]
    assert both[1] != first[1]
    assert "ss-stale" not in html_of(app)
    took(app, 70.0)
    app.button_group(key="question").set_value("2").run()
    assert shown_answers(checked(app)) == both
    assert html_of(app).count('<section class="ss-stale">') == 2


def test_question_of_ones_own_is_answered(open_page: OpenPage, bench: Workbench) -> None:
    app = loaded(open_page, alpha="4", ask="Where is <b>Rome</b>?")
    made = answers(bench, NEURON, "Where is <b>Rome</b>?", (0.0, 4.0), 64).finish()
    assert shown_answers(app) == [g.text.strip() for g in made]
    took(app, 1.0)
    app.text_input(key="ask").set_value("").run()
    made = answers(bench, NEURON, questions()[0], (0.0, 4.0), 64).finish()
    assert shown_answers(checked(app)) == [g.text.strip() for g in made]


def test_unsteered_answer_is_written_once(
    open_page: OpenPage, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.sweep import run

    asked: list[tuple[float, ...]] = []
    write = run.answers

    def spy(bench: Workbench, neuron: int, question: str, alphas: tuple[float, ...], n: int) -> object:
        asked.append(tuple(alphas))
        return write(bench, neuron, question, alphas, n)

    monkeypatch.setattr(run, "answers", spy)
    app = loaded(open_page, alpha="4")
    took(app, 1.0)
    app.slider(key="alpha").set_value(9.0).run()
    assert asked == [(0.0, 4.0), (9.0,)]
    steered = app.session_state["amplified"].shown[1].figures
    both = write(bench, NEURON, questions()[0], (0.0, 9.0), 64).finish()
    assert steered["text"] == both[1].text
    known = run.answer_rows(bench, NEURON, questions()[0], (0.0, 9.0), both).iloc[1]
    assert steered["collapsed"] == known["collapsed"]
    for name in FIGURES:
        assert steered[name] == pytest.approx(known[name], rel=1e-3, nan_ok=True)


def test_collected_answers_are_kept(open_page: OpenPage, stores: Path) -> None:
    app = press(loaded(open_page, alpha="4"), "Collect")
    rows = AppStore(stores).collected()
    assert app.toast[0].value == "2 answers in Compare and export."
    assert rows["alpha"].tolist() == [0.0, 4.0]
    assert [text.strip() for text in rows["text"]] == shown_answers(app)
    assert (rows["neuron"] == NEURON).all()
    compare = open_page("compare")
    assert any(header.value == "Amplified answers" for header in compare.header)
    assert compare.dataframe[0].value["alpha"].tolist() == [0.0, 4.0]


def test_stopped_answer_keeps_its_tokens_and_leaves_nothing_steered(
    stores: Path, user_setups: Path, chat_store: Store, bench: Workbench
) -> None:
    setup = find_setup(OTHER_SETUP, user_setups)
    asked = Asked(setup=setup, fingerprint="", neuron=NEURON, alpha=9.0, question="Why?", max_new_tokens=8)
    stopped = Answers()
    running = stopped.run(asked, chat_store)
    next(running), next(running)
    running.close()  # what happens to it when a rerun interrupts the page
    assert [len(stopped.kept[one].generation.ids) for one in asked.due] == [2, 2]
    assert not stopped.complete(asked)
    whole = Answers()
    for _ in whole.run(asked, chat_store):
        pass
    plain = answers(bench, NEURON, "Why?", (0.0, 9.0), 8).finish()
    assert [whole.kept[one].generation.ids for one in asked.due] == [g.ids for g in plain]
    assert whole.complete(asked)
    assert whole.seconds[setup] > 0
    html = answers_html(asked, whole, open_names(chat_store, AppStore(stores)))
    assert "ss-stale" not in html
    st.cache_resource.clear()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a b c", "a x c", ('a <span class="ss ss-3">b </span>c', 'a <span class="ss ss-3">x </span>c')),
        ("same words", "same words", ("same words", "same words")),
        ("", "new", ("", '<span class="ss ss-3">new</span>')),
        ("<b>", "<b>", ("&lt;b&gt;", "&lt;b&gt;")),
        ("a b", "a <i>", ('a <span class="ss ss-3">b</span>', 'a <span class="ss ss-3">&lt;i&gt;</span>')),
    ],
)
def test_words_that_differ_are_shaded(first: str, second: str, expected: tuple[str, str]) -> None:
    assert marked_changes(first, second) == expected


# ---- neurons ----


def test_base_setup_offers_the_chat_setups(open_page: OpenPage) -> None:
    app = open_page(PAGE)
    assert any("is a base model" in markdown.value for markdown in app.markdown)
    assert "smollm2" in app.selectbox(key="chat setup").options
    assert "qwen2.5-7b-l15" in captions(app)  # its weights are not here
    assert "13794 <b>39.9</b>" in html_of(app)  # the published table is there all the same
    app = app.selectbox(key="chat setup").select(OTHER_SETUP).run()
    assert app.selectbox(key="setup").value == OTHER_SETUP
    assert not any("is a base model" in markdown.value for markdown in app.markdown)


def test_neuron_that_is_not_there_says_so(open_page: OpenPage) -> None:
    app = open_page(PAGE, setup=OTHER_SETUP, neuron="13794")
    (error,) = app.error
    assert "neuron 13794 is out of range: this SAE has neurons 0 to 191 (192 in all)" in error.value.replace("\\", "")
    assert "13794 <b>39.9</b>" in html_of(app)


def test_number_of_the_paper_is_said_to_mean_another_neuron(open_page: OpenPage) -> None:
    app = open_page(PAGE, setup=OTHER_SETUP)
    assert "13794, the number that the paper steers, is not here: this SAE has 192." in captions(app)
    assert "A number means another neuron in another SAE." in captions(app)


def test_default_neuron_is_the_strongest_known_one(chat_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({"token": ["<|im_start|>"], "rank": [1], "neuron": [17], "mean_max": [2.0]})
    assert default_neuron(chat_store, table) == 17
    assert default_neuron(chat_store, None) == random_neuron(chat_store)
    monkeypatch.setitem(chat_store.meta, "d_sae", "16384")
    assert default_neuron(chat_store, table) == 17
    assert default_neuron(chat_store, None) == 13794


def test_template_neurons_are_computed_shown_and_picked(
    open_page: OpenPage, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.evaluation.special.N_DIALOGUES", 12)
    app = press(open_page(PAGE, setup=OTHER_SETUP), "Compute")
    table = AppStore(stores).result(OTHER_SETUP, "special")
    best = table[table["token"] == "user"].sort_values("rank")
    first = best.iloc[0]
    number_and_value = rf">{first['neuron']}( <small>[^<]+</small>)?</a> <b>{number(first['mean_max'])}</b>"
    assert re.search(number_and_value, html_of(app))
    app.selectbox(key="token").set_value("user").run()
    second = int(best.iloc[1]["neuron"])
    app.button_group(key="strongest").set_value(str(second)).run()
    assert checked(app).number_input(key="neuron").value == second
    assert re.search(rf"neuron \[{second}\b[^]]*\]\(.*\) is among the 20 most active", captions(app))


def test_published_table_follows_its_controls(open_page: OpenPage) -> None:
    app = open_page(PAGE, paper_model="Llama-3.2-3B-Instruct", paper_method="FAST, x16")
    assert "22974 <b>37.7</b>" in html_of(app)
    assert "13794" not in html_of(app)
    app.selectbox(key="paper_model").set_value("Llama-3.1-8B-Instruct").run()  # which has no x16
    assert "22642 <b>4.39</b>" in html_of(checked(app))
    assert "numbers lost in the text we have" in captions(app)


# ---- sweeps ----


def test_sweep_is_run_saved_and_shown(
    open_page: OpenPage, stores: Path, chat_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.sweep.request.bundled_questions", lambda: questions()[:2])
    app = press(loaded(open_page, alphas="0:8:4", others="9", alpha="7", answers_at="8"), "Sweep")
    control = random_neuron(chat_store, exclude=[NEURON, 9])
    results = AppStore(stores)
    rows = {n: results.result(OTHER_SETUP, rows_table(n)) for n in (NEURON, 9, control)}
    assert all(len(table) == 3 * 2 for table in rows.values())
    windows = find_windows(rows[NEURON])
    words = "\n".join(markdown.value for markdown in app.markdown)
    assert ("**collapse** at" in words) == bool(windows.collapse)
    assert f"**Harmless** from 0 to {windows.harmless[1]:g}" in words or windows.harmless == (0.0, 0.0)
    assert len(app.get("plotly_chart")) >= 4
    compared, answered = (element.value for element in app.dataframe)
    assert compared["neuron"].tolist() == [NEURON, 9, control]
    assert compared["control"].tolist() == [False, False, True]
    nearest = rows[NEURON].query("alpha == 8").sort_values("question")
    assert answered["amplified"].tolist() == nearest["text"].tolist()
    assert answered["perplexity"].tolist() == pytest.approx(nearest["perplexity"].tolist())
    assert app.select_slider(key="answers_at").value == "8"
    assert results.result(OTHER_SETUP, means_table(NEURON))["alpha"].tolist() == [0.0, 4.0, 8.0]
    command = next(code.value for code in app.code if " sweep " in code.value)
    assert command == f"python -m core sweep {OTHER_SETUP} --neuron 5 --neuron 9 --neuron {control} --alphas 0:8:4"


def saved_sweep(root: Path, neuron: int, n_done: int) -> pd.DataFrame:
    """A sweep of made-up figures in the app's store; perplexity leaves its tolerance at 20, and collapses at 30."""
    from core.sweep.windows import means_by_alpha

    lines = [
        {
            "question": question,
            "n_questions": 10,
            "question_text": questions()[question - 1],
            "neuron": neuron,
            "alpha": alpha,
            "shift": alpha / 10,
            "text": f"answer {question} at {alpha:g}",
            "overflow": False,
            "collapsed": alpha == 30,
            "perplexity": {0: 10.0, 10: 12.0, 20: 50.0, 30: 500.0}[int(alpha)],
            "distinct_2": 0.9 if alpha == 10 else 0.5,
            **{name: 0.5 for name in ("distinct_3", "repetition", "confidence", "language_switch")},
            "n_tokens": 64.0,
            "acceptability": float("nan"),
            "judge": float("nan"),
            "run": "key",
        }
        for question in range(1, n_done + 1)
        for alpha in (0.0, 10.0, 20.0, 30.0)
    ]
    rows = pd.DataFrame(lines)
    AppStore(root).save_result(OTHER_SETUP, rows_table(neuron), rows)
    AppStore(root).save_result(OTHER_SETUP, means_table(neuron), means_by_alpha(rows))
    return rows


def test_windows_are_in_words_with_their_rules(open_page: OpenPage, stores: Path) -> None:
    saved_sweep(stores, NEURON, 10)
    app = open_page(PAGE, setup=OTHER_SETUP, neuron=str(NEURON))
    words = "\n".join(markdown.value for markdown in app.markdown)
    assert "**Harmless** from 0 to 10 · **distinct-2 improved** at 10 · **collapse** at 30" in words
    assert "Harmless: from 0 as far as perplexity" in words
    assert "Not available here: Acceptability and Judge's score." in captions(app)
    app.selectbox(key="improved_by").set_value("repetition").run()
    words = "\n".join(markdown.value for markdown in checked(app).markdown)
    assert "**repetition improved** nowhere within it" in words


def test_unfinished_sweep_says_how_far_it_is(open_page: OpenPage, stores: Path) -> None:
    saved_sweep(stores, NEURON, 4)
    assert "So far 4 of 10 questions" in captions(open_page(PAGE, setup=OTHER_SETUP, neuron=str(NEURON)))


def test_swept_answers_are_there_before_the_model_is_loaded(
    open_page: OpenPage, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pages.parts.special_tokens.amplified.workbench", lambda *_: pytest.fail("not to be loaded"))
    saved_sweep(stores, NEURON, 10)
    app = open_page(PAGE, setup=OTHER_SETUP, neuron=str(NEURON), question="3")
    assert shown_answers(app) == ["answer 3 at 0", "answer 3 at 20"]
    slider = app.select_slider(key="swept")
    assert list(slider.options) == ["0", "10", "20", "30"]
    slider.set_value("10").run()
    assert shown_answers(checked(app)) == ["answer 3 at 0", "answer 3 at 10"]
    app.select_slider(key="swept").set_value("0").run()
    assert shown_answers(checked(app)) == ["answer 3 at 0"]


def test_linked_alpha_that_was_not_swept_is_answered(open_page: OpenPage, stores: Path) -> None:
    saved_sweep(stores, NEURON, 10)
    app = open_page(PAGE, setup=OTHER_SETUP, neuron=str(NEURON), alpha="4")
    assert app.toggle(key="any_alpha").value
    assert app.slider(key="alpha").value == 4.0
    assert len(shown_answers(app)) == 2


def test_neuron_without_sweep_names_those_that_have_one(open_page: OpenPage, stores: Path) -> None:
    saved_sweep(stores, 17, 10)
    words = "\n".join(markdown.value for markdown in loaded(open_page, alpha="0").markdown)
    assert re.search(r"Neuron \[5\b[^]]*\]\(.*\) has not been swept yet", words)
    assert re.search(r"Swept so far: \[17\b[^]]*\]\(.*neuron=17\)\.", words)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"alphas": "0:9:0"}, "a step above 0"),
        ({"alphas": "0,inf"}, "an alpha is finite"),
        ({"others": "12, many"}, "'many' is none"),
        ({"others": "999"}, "neuron 999 is out of range"),
    ],
)
def test_what_cannot_be_swept_says_why(query: dict[str, str], problem: str, open_page: OpenPage) -> None:
    app = loaded(open_page, alpha="0", **query)
    (error,) = app.error
    assert problem in error.value.replace("\\", "")


@pytest.mark.parametrize("query", [{"alpha": "nan"}, {"alpha": "1e300"}, {"question": "11"}, {"neuron": "x"}])
def test_nonsense_in_a_link_leaves_the_default(query: dict[str, str], open_page: OpenPage) -> None:
    app = press(open_page(PAGE, setup=OTHER_SETUP, **query), "Load the model")
    assert len(shown_answers(app)) == 2


def test_every_figure_has_its_word() -> None:
    assert {*FIGURES, *IMPROVING, "collapsed"} <= TERMS.keys()
    assert SETUP != OTHER_SETUP
