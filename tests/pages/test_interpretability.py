"""The Interpretability page: what it opens with, the blind form, results beside the published ones, and the search."""

import re
from html import unescape
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.interpretability.contexts import NeuronContexts, contexts_from_store, drawn_from_store, shown_part
from core.interpretability.ratings import Rated, save
from core.interpretability.rubric import RUBRIC, question_digest
from core.results.ratings import RatingStore
from core.store.reader import Store
from pages.parts.interpretability.published import published_points, published_shares
from pages.shared.charts.interpretability import cumulative, high_shares, score_shares
from tests.pages.conftest import OTHER_SETUP, SETUP, OpenPage, checked, html_of
from tests.pages.figures import figure

RATE = "Rate blind"


def sample(store: Store, n: int = 6) -> list[NeuronContexts]:
    return [contexts_from_store(store, neuron) for neuron in drawn_from_store(store, n, seed=0)]


def rate(store: Store, rater: str = "m", scores: tuple[int | None, ...] = (5, 4, 3, 1, 1, None)) -> list[int]:
    """Ratings of the first drawn neurons by a judge; their numbers."""
    rated = Rated(store.meta["name"], store.meta["fingerprint"])
    shown = sample(store, len(scores))
    said = [("" if score is None else f"words number {n}") for n, score in enumerate(scores)]
    problems = ["no JSON object" if score is None else "" for score in scores]
    rows = zip(shown, scores, said, problems, strict=True)
    save(results_of(store), [rated.rating(one, "judge", rater, *rest) for one, *rest in rows])
    return [one.neuron for one in shown]


def results_of(store: Store) -> RatingStore:
    return RatingStore(store.path.parents[1])


def button(app: AppTest, label: str) -> AppTest:
    checked(next(b for b in app.main.button if b.label.startswith(label)).click().run())
    return app


def named(app: AppTest, name: str = "Ada") -> AppTest:
    return checked(app.text_input("interpret_rater").set_value(name).run())


def test_first_look_shows_a_neuron_the_command_and_what_is_published(open_page: OpenPage, store: Store) -> None:
    app = open_page("interpretability")
    first = sample(store, 1)[0]
    said = unescape(re.sub("<[^>]*>", "", html_of(app)))
    assert all("".join(shown_part(context)[0]) in said.replace("↵", "") for context in first.contexts)
    assert "No neuron is rated yet" in app.main.markdown[0].value
    assert [b.label[0] for b in app.main.button if b.label[0].isdigit()] == [str(score) for score in RUBRIC]
    assert any(f"interpret {SETUP} --neurons 128 --judge" in code.value for code in app.main.code)
    assert any("requests, about" in caption.value for caption in app.main.caption)
    assert figure(app, 0)["data"][0]["x"] == pytest.approx([0.211, 0.07, 0.102, 0.235, 0.078, 0.11])
    assert not app.error


def test_nothing_can_be_rated_without_a_name(open_page: OpenPage, store: Store) -> None:
    app = open_page("interpretability", part=RATE)
    assert all(b.disabled for b in app.main.button if b.label[0].isdigit())
    assert not any(b.disabled for b in named(app).main.button if b.label[0].isdigit())


def test_a_person_rates_the_neurons_that_a_judge_is_asked_about(open_page: OpenPage, store: Store) -> None:
    app = named(open_page("interpretability"))  # from the first look
    first, second, third = sample(store, 3)
    app.text_input("interpret_summary").set_value("  odd   words ").run()
    button(app, "4")
    assert app.session_state["part"] == RATE
    assert app.text_input("interpret_summary").value == ""
    button(app, "Skip")
    button(app, "1")
    rows = results_of(store).ratings(SETUP).set_index("neuron")
    assert set(rows.index) == {first.neuron, third.neuron}
    line = rows.loc[first.neuron]
    assert (line["kind"], line["rater"], line["score"], line["summary"]) == ("person", "Ada", 4, "odd words")
    assert line["question"] == question_digest(first)
    assert rows.loc[third.neuron, "score"] == 1
    labels = results_of(store).labels(SETUP)
    assert labels[["neuron", "label", "source"]].values.tolist() == [[first.neuron, "odd words", "user"]]
    button(app, "Back")
    button(app, "2")  # thought better of
    rows = results_of(store).ratings(SETUP).set_index("neuron")
    assert rows.loc[third.neuron, "score"] == 2
    assert second.neuron not in rows.index
    assert any(f"2 of {len(drawn_from_store(store, 128, 0))}" in caption.value for caption in app.main.caption)


def test_another_person_begins_anew(open_page: OpenPage, store: Store) -> None:
    app = button(named(open_page("interpretability", part=RATE)), "5")
    button(named(app, "Bob"), "3")
    rows = results_of(store).ratings(SETUP)
    assert sorted(zip(rows["rater"], rows["score"], strict=True)) == [("Ada", 5), ("Bob", 3)]
    assert rows["neuron"].nunique() == 1


def test_the_form_says_nothing_of_the_neuron(open_page: OpenPage, store: Store) -> None:
    neurons = rate(store, scores=(5, 4))
    app = named(open_page("interpretability", part=RATE))
    said = "\n".join(e.value for e in [*app.main.markdown, *app.main.caption]) + html_of(app)
    assert "words number" not in said
    assert not re.search(rf"\b{neurons[0]}\b(?! of)", re.sub("<[^>]*>", " ", said.replace("activation", "")))


def test_neurons_of_several_setups_are_mixed(open_page: OpenPage, store: Store) -> None:
    app = named(open_page("interpretability", part=RATE))
    app.multiselect("interpret_pool").set_value([SETUP, OTHER_SETUP]).run()
    for _ in range(6):
        button(app, "3")
    assert results_of(store).ratings()["setup"].value_counts().to_dict() == {SETUP: 3, OTHER_SETUP: 3}


def test_results_stand_beside_the_published_ones(open_page: OpenPage, store: Store) -> None:
    rate(store)
    app = open_page("interpretability")
    traces = figure(app, 0)["data"]
    ours = next(trace for trace in traces if trace["y"] == [f"{SETUP}, m"])
    assert ours["x"] == pytest.approx([0.4])
    assert [len(trace["y"]) for trace in traces] == [1, 6, 7]  # ours, published, the figures beside them
    assert figure(app, 1)["data"][0]["y"] == pytest.approx([0.4, 0.4, 0.6, 0.8, 1.0])
    assert len(figure(app, 2)["data"]) == 5
    table = next(frame.value for frame in app.main.dataframe if "share_4_5" in frame.value)
    assert table[["n", "unanswered", "share_4_5"]].values.tolist() == [[5, 1, 40.0]]


def test_agreement_of_two_judges(open_page: OpenPage, store: Store) -> None:
    rate(store, "m", (5, 4, 3, 1, 1, 2))
    rate(store, "n", (5, 4, 2, 1, 1, 2))
    table = next(f.value for f in open_page("interpretability").main.dataframe if "kappa" in f.value)
    assert table[["first", "second", "n"]].values.tolist() == [["m", "n", 6]]
    assert 0.5 < table["kappa"][0] < table["kappa_weighted"][0] < 1


def test_ratings_of_an_earlier_sae_are_left_out(open_page: OpenPage, store: Store) -> None:
    save(results_of(store), [Rated(SETUP, "another").rating(sample(store, 1)[0], "judge", "m", 5, "rivers")])
    app = open_page("interpretability")
    assert "No neuron is rated yet" in app.main.markdown[0].value
    assert any("1 rating left out" in caption.value for caption in app.main.caption)


def test_neurons_are_found_by_summary_and_score(open_page: OpenPage, store: Store) -> None:
    neurons = rate(store)
    app = open_page("interpretability", part="Rated neurons")
    table = app.main.dataframe[0].value
    assert table["score"].dropna().tolist() == [5, 4, 3, 1, 1]
    assert any(m.value == r"**5** words number 0 \(m\)" or "**5** words number 0 (m)" in m.value for m in app.markdown)
    checked(app.text_input("words").set_value("Number 1").run())
    assert app.main.dataframe[0].value["neuron"].tolist() == [neurons[1]]
    assert any(f"[{neurons[1]} words number 1]" in m.value for m in app.main.markdown)  # its label, linked
    checked(app.text_input("words").set_value("(.*").run())  # no pattern
    assert any("No rated neuron has that" in m.value for m in app.main.markdown)
    app = open_page("interpretability", part="Rated neurons", words="number", scores="1")
    assert set(app.main.dataframe[0].value["neuron"]) == set(neurons[3:5])


def test_a_broken_file_is_said(open_page: OpenPage, stores: Path) -> None:
    (stores / "app.duckdb").write_bytes(b"no database")
    assert any("damaged" in error.value for error in open_page("interpretability").error)


def test_published_values_are_those_of_the_text() -> None:
    shares = published_shares()
    assert shares["label"].str.startswith("published ").all()
    assert len(shares) == 6
    points = published_points().set_index("label")
    assert points.loc["published Qwen2.5-3B, FAST", "share"] == pytest.approx(0.765)
    assert points.loc["published Llama-3.2-3B x8, FAST", "share"] == pytest.approx(1 - 0.211)
    assert set(points["score"]) == {3}


def test_charts_of_no_rows_are_empty() -> None:
    rows = published_shares().iloc[:0]
    assert [len(trace.y) for trace in high_shares(rows).data] == [0]
    empty = rows.assign(rater=[], **{f"share_{score}": [] for score in range(1, 6)})
    assert len(cumulative(empty, published_points().iloc[:0]).data) == 0
    assert len(score_shares(empty, "light").data) == 5
