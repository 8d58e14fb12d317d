"""The Topic page shows what core computes, and takes any input without an exception."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.build.activations import token_activations
from core.catalog import find_setup
from core.evaluation.output_score import topic_gains
from core.models.embeddings import load_embedding_model
from core.results.app_store import AppStore
from core.scoring.chance import SIDES, Chance, Tail, verdict
from core.scoring.nonsense import keep_chance
from core.scoring.scorer import Scorer
from core.scoring.scores import TopicScores, score_topic, strawman
from core.settings import ScoreSettings
from core.steering.workbench import open_workbench
from core.store.reader import Store
from core.text.prompts import Topic, bundled_topics, parse_topic
from pages.parts.topic.contexts import STRONGEST, in_ranges
from pages.parts.topic.polysemantic import strongest_at_the_ends
from pages.parts.topic.ranking import ranking, ranking_csv
from pages.parts.topic.table import fitting
from pages.shared.charts import figures as charts
from tests.fixtures.autoencoders import D_SAE
from tests.pages.conftest import MIN_PROMPTS, OTHER_SETUP, SETUP, OpenPage, checked, html_of

SETTINGS = ScoreSettings(min_prompts=MIN_PROMPTS)


def scores_of(store: Store, topic: Topic, settings: ScoreSettings = SETTINGS) -> TopicScores:
    embeddings = load_embedding_model(find_setup(SETUP).embedding_model).embed(topic.prompts)
    return score_topic(store, embeddings, settings)


def shown_ranking(app: AppTest) -> pd.DataFrame:
    return app.dataframe(key="ranking").value


def test_first_screen_ranks_the_default_topic(open_page: OpenPage, store: Store) -> None:
    app = open_page()
    expected = scores_of(store, parse_topic("heart surgery")).ranked(200)
    shown = shown_ranking(app)
    assert shown["neuron"].tolist() == expected["neuron"].tolist()
    np.testing.assert_allclose(shown["score"], expected["score"], atol=1e-6)
    assert f"<dd>{expected['score'][0]:.3f}" in html_of(app)


def cases_of(store: Store, topic: Topic, settings: ScoreSettings = SETTINGS) -> pd.DataFrame:
    bench = Scorer(store, load_embedding_model(find_setup(SETUP).embedding_model))
    return bench.cases(bench.score(topic, settings))


def test_line_above_the_ranking_says_whether_the_topic_is_carried(open_page: OpenPage, store: Store) -> None:
    app = open_page(neuron="3")  # measured while the page is drawn, and drawn again
    topic = parse_topic("heart surgery")
    cases, words = cases_of(store, topic), verdict(cases_of(store, topic))
    assert any(f"**{words[0].upper()}{words[1:]}**" in text.value for text in app.markdown)
    second, median = scores_of(store, topic).standing()
    assert any(text.value == f"Second-best score {second:.2f}, median {median:.2f}" for text in app.markdown)
    shown = shown_ranking(app)
    expected = cases.set_index("neuron").loc[shown["neuron"], "case"].replace("not told apart", "")
    assert shown["case"].tolist() == expected.tolist()
    assert cases["case"][3] in html_of(app)


def test_aligned_neurons_are_named_in_the_ranking(open_page: OpenPage, store: Store, stores: Path) -> None:
    easy, hard = (Tail(np.array([1]), np.array([value]), 10**9) for value in (-99.0, 99.0))
    chance = Chance({"aligned": easy, "unaligned": hard, "polysemantic": hard}, dict.fromkeys(SIDES, 0.05))
    keep_chance(AppStore(stores), store, 1, SETTINGS, chance)
    app = open_page()
    n = int(scores_of(store, parse_topic("heart surgery")).table["score"].notna().sum())
    assert any(f"**{n:,} neurons stand out beyond chance**" in text.value for text in app.markdown)
    assert set(shown_ranking(app)["case"]) == {"aligned"}


def test_max_density_leaves_dense_neurons_out(open_page: OpenPage, store: Store) -> None:
    limit = float(np.median(store.density()))
    app = open_page(max_density=f"{limit:.3f}")
    expected = scores_of(
        store, parse_topic("heart surgery"), ScoreSettings(min_prompts=MIN_PROMPTS, max_density=round(limit, 3))
    )
    assert shown_ranking(app)["neuron"].tolist() == expected.ranked(200)["neuron"].tolist()
    assert len(expected.ranked()) < len(scores_of(store, parse_topic("heart surgery")).ranked())


def test_find_lists_the_neurons_of_a_token_or_a_label(open_page: OpenPage, store: Store, stores: Path) -> None:
    ranked = scores_of(store, parse_topic("heart surgery")).ranked()
    last = int(ranked["neuron"].iloc[-1])
    AppStore(stores).save_labels(SETUP, {last: "the very last one"}, "user")
    app = open_page()
    app.text_input(key="find").set_value("VERY last").run()
    assert shown_ranking(checked(app))["neuron"].tolist() == [last]
    assert shown_ranking(app)["tokens_shown"].tolist() == ["the very last one"]
    token = store.neurons([int(ranked["neuron"][0])])["top_tokens"].iloc[0][0]
    app.text_input(key="find").set_value(token).run()
    known = store.neurons(ranked["neuron"].tolist()).set_index("neuron")["top_tokens"]
    wanted = token.strip().casefold()
    fire = [n for n in ranked["neuron"] if any(wanted == t.strip().casefold() for t in known[n])]
    assert shown_ranking(checked(app))["neuron"].tolist() == fire[:200]


def test_tokens_that_fit_are_shown_whole() -> None:
    assert fitting([" heart", " beat", " hand"], 10) == "heart beat"
    assert fitting(["a" * 40], 10) == "a" * 10
    assert fitting([], 10) == ""


def test_weaker_contexts_come_from_their_range_of_activation() -> None:
    rows = pd.DataFrame({"prompt": range(8), "max": [8.0, 6.1, 5.9, 4.0, 3.9, 2.0, 1.0, 0.5], "text": list("abcdefgh")})
    found = in_ranges(rows, 8.0)
    assert [one["text"].tolist() for _, one in found] == [["c", "d"], ["e", "f"], ["g", "h"]]
    assert found[0][0] == "50% to 75% of its largest activation: 2 of 8 prompts"
    assert in_ranges(rows[rows["max"] > 5], 8.0)[2][1].empty


def test_polysemantic_neurons_show_their_strongest_prompt_at_either_end() -> None:
    rows = pd.DataFrame({"prompt": [0, 1, 2, 3], "max": [1.0, 5.0, 2.0, 4.0], "text": list("abcd")})
    near, far = np.array([True, False, True, False]), np.array([False, False, False, True])
    assert strongest_at_the_ends(rows, near, far) == ("c", "d")
    assert strongest_at_the_ends(rows, near, ~near & ~far & (rows["max"].to_numpy() < 0)) == ("c", "")


def test_typed_lines_are_the_topic(open_page: OpenPage, store: Store) -> None:
    app = open_page(neuron="3")
    app.text_area(key="topic").set_value("soup and bread\n\nroasting a chicken").run()
    expected = scores_of(store, Topic("", "", ("soup and bread", "roasting a chicken"))).ranked()
    assert shown_ranking(checked(app))["neuron"].tolist() == expected["neuron"].tolist()
    assert app.number_input(key="neuron").value is None  # the best neuron of the new topic is open


def test_bundled_topic_of_a_link(open_page: OpenPage, store: Store) -> None:
    app = open_page(bundled="Law")
    expected = scores_of(store, bundled_topics()["law"]).ranked()
    assert shown_ranking(app)["neuron"].tolist() == expected["neuron"].tolist()
    assert app.text_area(key="topic").value == ""
    assert app.text_area(key="topic").placeholder.startswith("Law: 20 bundled prompts.")


def test_bundled_topic_replaces_a_typed_one_and_the_reverse(open_page: OpenPage, store: Store) -> None:
    app = open_page(topic="soup")
    app.selectbox(key="bundled").set_value("law").run()
    law = scores_of(store, bundled_topics()["law"]).ranked()["neuron"].tolist()
    assert shown_ranking(checked(app))["neuron"].tolist() == law
    app.text_area(key="topic").set_value("soup").run()
    assert app.selectbox(key="bundled").value is None
    soup = scores_of(store, parse_topic("soup")).ranked()["neuron"].tolist()
    assert shown_ranking(checked(app))["neuron"].tolist() == soup


def test_scoring_settings_of_a_link(open_page: OpenPage, store: Store) -> None:
    app = open_page(summary="max", distance="squared", variant="variance", min_prompts="9")
    settings = ScoreSettings(summary="max", distance="squared", variant="variance", min_prompts=9)
    expected = scores_of(store, parse_topic("heart surgery"), settings).ranked()
    assert shown_ranking(app)["neuron"].tolist() == expected["neuron"].tolist()
    np.testing.assert_allclose(shown_ranking(app)["g"], expected["g"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content"),
    [("topic.txt", "soup\nbread\n"), ("topic.csv", "id,text\n1,soup\n2,bread\n"), ("t.jsonl", '{"prompt": "soup"}\n')],
)
def test_uploaded_file_is_the_topic(name: str, content: str, open_page: OpenPage, store: Store) -> None:
    app = open_page()
    app.file_uploader[0].set_value((name, content.encode(), "text/plain")).run()
    prompts = ("soup", "bread") if "bread" in content else ("soup",)
    expected = scores_of(store, Topic("", "", prompts)).ranked()
    assert shown_ranking(checked(app))["neuron"].tolist() == expected["neuron"].tolist()
    app.text_area(key="topic").set_value("heart surgery").run()  # typing leaves the file
    expected = scores_of(store, parse_topic("heart surgery")).ranked()
    assert shown_ranking(checked(app))["neuron"].tolist() == expected["neuron"].tolist()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("topic.csv", b"id,words\n1,soup\n", "'topic.csv': no column text or prompt; it has ['id', 'words']"),
        ("topic.txt", b"\xff\xfe\x00", "'topic.txt': not UTF-8 (byte 0); save it as UTF-8"),
        ("topic.jsonl", b"not json\n", "'topic.jsonl': line 1 is not JSON"),
        ("topic.txt", b"a\n" * 2_001, "'topic.txt': it has 2,001 prompts; a topic takes at most 2,000"),
    ],
)
def test_file_that_is_no_topic_says_why(name: str, content: bytes, problem: str, open_page: OpenPage) -> None:
    app = open_page()
    app.file_uploader[0].set_value((name, content, "text/plain")).run()
    (error,) = checked(app).error
    assert error.value.replace("\\", "").startswith(problem)


def test_neuron_of_a_link_is_open(open_page: OpenPage, store: Store) -> None:
    scores = scores_of(store, parse_topic("heart surgery"))
    seventh = scores.ranked().iloc[6]
    html = html_of(open_page(neuron=str(seventh["neuron"])))
    assert f"{seventh['score']:.3f} <small>rank 7 of {len(scores.ranked()):,}</small>" in html
    for context in store.contexts(int(seventh["neuron"]))[:STRONGEST]:
        tips = [f'data-tip="activation {a:.3g}"' for a in context.activations.tolist() if a]
        assert tips
        assert [tip for tip in tips if tip not in html] == []


def test_neuron_too_rare_to_score_is_explained(open_page: OpenPage, store: Store) -> None:
    known = store.neurons()
    rare = known[(known["prompts"] > 0) & (known["prompts"] < 60)].iloc[0]
    app = open_page(neuron=str(rare["neuron"]), min_prompts="60")
    expected = (
        f"Active in {rare['prompts']} reference prompts: too rare to score, which takes 60. In steering it counts"
    )
    assert any(caption.value.startswith(expected) for caption in app.caption)
    assert "rank" not in html_of(app)


def test_neuron_that_never_fires_says_so(open_page: OpenPage) -> None:
    app = open_page(neuron=str(D_SAE - 1))
    assert any("active on no reference prompt" in text.value for text in app.markdown)


def test_neuron_out_of_range_says_so(open_page: OpenPage) -> None:
    app = open_page(neuron=str(D_SAE))
    assert [error.value.replace("\\", "") for error in app.error] == [
        f"neuron {D_SAE} is out of range: this SAE has neurons 0 to {D_SAE - 1}"
    ]
    assert len(shown_ranking(app))  # the rest of the page is there


@pytest.mark.parametrize(
    ("topic", "problem"),
    [("", "the topic is empty"), (" \n\t", "the topic is empty"), ("x" * 100_000, "at most 20,000 are read")],
)
def test_topic_that_cannot_be_says_why(topic: str, problem: str, open_page: OpenPage) -> None:
    app = open_page()
    app.text_area(key="topic").set_value(topic).run()
    assert problem in checked(app).error[0].value.replace("\\", "")


@pytest.mark.parametrize(
    "topic", ["<script>alert(1)</script>", "قلب مفتوح", "**bold** $x$ :red[a]", "'; DROP TABLE neurons"]
)
def test_any_text_is_a_topic(topic: str, open_page: OpenPage, store: Store) -> None:
    app = open_page(topic=topic)
    expected = scores_of(store, parse_topic(topic)).ranked()
    assert shown_ranking(app)["neuron"].tolist() == expected["neuron"].tolist()
    assert "<script>alert" not in html_of(app)


def test_collected_neuron_is_kept_with_its_figures(open_page: OpenPage, store: Store, stores: Path) -> None:
    best = ranking(store, scores_of(store, parse_topic("heart surgery")), 1).iloc[0]
    app = open_page()
    next(button for button in app.button if button.label == "Collect").click().run()
    row = AppStore(stores).collected().iloc[-1]
    assert checked(app).toast[0].value == "1 neuron in Compare and export."
    assert (row["kind"], row["setup"], row["topic"]) == ("neuron", SETUP, "heart surgery")
    assert (row["neuron"], row["rank"], row["prompts"]) == (best["neuron"], 1, best["prompts"])
    assert (row["score"], row["g"]) == (pytest.approx(best["score"]), pytest.approx(best["g"]))


def test_csv_has_every_scored_neuron(store: Store) -> None:
    scores = scores_of(store, parse_topic("heart surgery"))
    rows = pd.read_csv(BytesIO(ranking_csv(store, scores)), keep_default_na=False)
    expected = ranking(store, scores)
    assert rows["neuron"].tolist() == expected["neuron"].tolist()
    np.testing.assert_allclose(rows["score"], expected["score"])
    assert rows["tokens"].tolist() == expected["tokens"].tolist()


def test_change_of_setup_keeps_the_topic(open_page: OpenPage) -> None:
    app = open_page(topic="gardening", neuron="3")
    app.selectbox(key="setup").set_value(OTHER_SETUP).run()
    assert checked(app).text_area(key="topic").value == "gardening"
    assert app.number_input(key="neuron").value is None
    assert len(shown_ranking(app))


# ---- what a neuron writes ----


def saved_output(stores: Path, store: Store) -> pd.DataFrame:
    """Output scores of all neurons but the last ten, the higher the number the lower."""
    neurons = np.arange(D_SAE - 10)
    table = pd.DataFrame({"neuron": neurons, "output_score": 0.1 / (neurons + 1), "rank": neurons + 1})
    nearest = [[int(n + 1) % D_SAE, int(n + 2) % D_SAE] for n in neurons]
    table = table.assign(nearest=nearest, cosine=[[0.75, 0.5]] * len(table))
    AppStore(stores).save_result(SETUP, "output", table)
    return table


def button(app: AppTest, label: str) -> Any:
    return next(found for found in app.button if found.label == label)


def test_without_output_scores_they_are_offered_and_computed(open_page: OpenPage, stores: Path) -> None:
    app = open_page()
    assert "output_score" not in shown_ranking(app)
    button(app, "Compute output scores").click().run()
    kept = AppStore(stores).result(SETUP, "output")
    assert kept is not None
    shown = shown_ranking(checked(app))
    expected = kept.set_index("neuron")["output_score"].reindex(shown["neuron"])
    np.testing.assert_allclose(shown["output_score"], expected)
    best = kept.set_index("neuron").loc[shown["neuron"][0]]
    assert f"{best['output_score']:.2g} <small>rank {best['rank']:,.0f} of {len(kept):,}</small>" in html_of(app)
    assert [found.label for found in app.button if found.label == "Compute output scores"] == []


def test_output_score_and_rank_stand_beside_the_topics(open_page: OpenPage, store: Store, stores: Path) -> None:
    saved_output(stores, store)
    html = html_of(open_page(neuron="3"))
    assert f"<dd>0.025 <small>rank 4 of {D_SAE - 10}</small></dd>" in html
    scores = scores_of(store, parse_topic("heart surgery"))
    rows = pd.read_csv(BytesIO(ranking_csv(store, scores, saved_output(stores, store))), keep_default_na=False)
    scored = rows[rows["neuron"] < D_SAE - 10]
    np.testing.assert_allclose(pd.to_numeric(scored["output_score"]), 0.1 / (scored["neuron"] + 1))
    assert (rows.loc[rows["neuron"] >= D_SAE - 10, "output_score"] == "").all()


def test_similar_neuron_opens_on_a_click(open_page: OpenPage, store: Store, stores: Path) -> None:
    saved_output(stores, store)
    app = open_page(neuron="3")
    app.button(key="similar 5").click().run()
    assert checked(app).number_input(key="neuron").value == 5
    assert "0.017 <small>rank 6 of" in html_of(app)


def test_output_scores_of_a_wider_sae_are_not_shown(open_page: OpenPage, store: Store, stores: Path) -> None:
    table = saved_output(stores, store)
    table.loc[0, "neuron"] = D_SAE
    AppStore(stores).save_result(SETUP, "output", table)
    app = open_page(neuron="3")
    assert "output_score" not in shown_ranking(app)
    assert button(app, "Compute output scores")


def test_collected_neuron_has_its_output_score(open_page: OpenPage, store: Store, stores: Path) -> None:
    saved_output(stores, store)
    button(open_page(neuron="3"), "Collect").click().run()
    assert AppStore(stores).collected().iloc[-1]["output_score"] == 0.025


def test_ranks_under_every_setting(open_page: OpenPage, store: Store) -> None:
    best = int(scores_of(store, parse_topic("heart surgery")).ranked(1)["neuron"][0])
    html = html_of(open_page())
    for summary in ("sum", "max", "mean", "count"):
        cells = []
        for distance in ("euclidean", "squared"):
            settings = ScoreSettings(summary=summary, distance=distance, min_prompts=MIN_PROMPTS)
            ranked = scores_of(store, parse_topic("heart surgery"), settings).ranked()
            rank = int(ranked[ranked["neuron"] == best]["rank"].iloc[0])
            mark = ' class="ss-best"' if (summary, distance) == ("sum", "euclidean") else ""
            cells.append(f"<td{mark}>{rank:,}</td>")
        assert f"<tr><th>{summary}</th>{''.join(cells)}</tr>" in html


def test_model_tells_the_gain_of_the_topics_words_and_the_strawman(
    open_page: OpenPage, store: Store, stores: Path, user_setups: Path
) -> None:
    topic = "people who work at a school"
    app = open_page(topic=topic)
    button(app, "Measure with the model").click().run()
    scores = scores_of(store, parse_topic(topic))
    best = int(scores.ranked(1)["neuron"][0])
    bench = open_workbench(find_setup(SETUP, user_setups), store)
    listed = scores.ranked(200)["neuron"].tolist()
    gain = topic_gains(bench, parse_topic(topic), listed)
    mine = gain.table.set_index("neuron").loc[best]
    assert f"{100 * mine['topic_gain']:+.2g} <small>% points, rank {mine['topic_rank']:,.0f} of" in html_of(
        checked(app)
    )
    share = strawman(token_activations(bench.model, bench.sae, [topic]), D_SAE)[best]
    assert f"{share:.1%} <small>of the topic's own tokens" in html_of(app)
    every = strawman(token_activations(bench.model, bench.sae, [topic]), D_SAE)
    shown = shown_ranking(app)
    np.testing.assert_allclose(shown["strawman"], every[shown["neuron"]], atol=1e-6)
    assert any(
        caption.value.replace("\\", "").startswith(f"The topic's words: {gain.words[0]}") for caption in app.caption
    )


def test_topic_without_words_has_no_gain_and_says_so(open_page: OpenPage) -> None:
    app = open_page(topic="12 + 7")
    button(app, "Measure with the model").click().run()
    assert "no token of this model spells a word of the topic" in checked(app).error[0].value.replace("\\", "")


def test_histogram_of_the_open_neuron_by_hand() -> None:
    (bars,) = charts.activation_histogram([3, 0, 1], 6.0).data
    assert (list(bars.x), list(bars.y)) == ([1.0, 3.0, 5.0], [3, 0, 1])
    assert list(bars.width) == [2.0, 2.0, 2.0]
