"""The text experiment: means and pairs worked by hand, and every column written by a tiny model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from core.catalog import EMBEDDED_REFERENCE
from core.errors import UsageError
from core.evaluation.experiments import ExperimentOptions, find_experiments, split_names
from core.evaluation.text import PromptSet, prompt_sets, run, write_texts
from core.evaluation.text_columns import SHUFFLED, TUNED, VARIANTS, TopicColumns, check_columns, tuning_prompts
from core.evaluation.text_tables import FIGURES, by_prompt, compare, summarise, with_saved
from core.models.acceptability import Acceptability
from core.models.judge import Rating
from core.settings import GenerationSettings, ScoreSettings
from core.steering.settings import SteeringSettings
from core.steering.workbench import Workbench
from core.text.prompts import Topic, bundled_topics, continuations, reference_prompts, unaligned_prompts

LAW = Topic("law", "Law", ("A contract is void.", "The court rules on the case."))
COLUMNS = ("ft", "none", "sae", "swap", SHUFFLED, "prompt", "random", "strawman", "add", "vector")


def rows_by_hand() -> pd.DataFrame:
    """Two topics, prompts a and b, two seeds; shuffled swap lies `shift` farther away than swap."""
    figures = dict.fromkeys(FIGURES, 1.0)
    rows = []
    for topic, shift in (("law", 0.5), ("cooking", 0.1)):
        for prompt, base in (("a", 1.0), ("b", 2.0)):
            for seed, noise in ((0, -0.25), (1, 0.25)):
                own = {
                    "topic": topic,
                    "prompts": "main",
                    "prompt": prompt,
                    "seed": seed,
                    "text": "",
                    "strength": np.nan,
                }
                rows.append({**figures, **own, "edit": "swap", "distance": base + noise})
                rows.append({**figures, **own, "edit": SHUFFLED, "distance": base + shift + noise})
    return pd.DataFrame(rows)


def test_by_prompt_takes_the_mean_over_seeds() -> None:
    assert by_prompt(rows_by_hand())["distance"].tolist() == [1.0, 1.5, 2.0, 2.5, 1.0, 1.1, 2.0, 2.1]


def test_summarise_gives_means_over_prompts_with_intervals() -> None:
    table = summarise(rows_by_hand()).set_index(["topic", "edit"])
    assert table.loc[("law", "swap"), "distance"] == 1.5
    assert table.loc[("law", SHUFFLED), "distance"] == 2.0
    # two prompts, 1 and 2: the seeds between them make no third value
    assert table.loc[("law", "swap"), "distance_low"] == pytest.approx(1.0)
    assert table.loc[("law", "swap"), "distance_high"] == pytest.approx(2.0)
    assert table.loc[("law", "swap"), ["n", "seeds"]].tolist() == [2, 2]


def test_summarise_adds_all_topics() -> None:
    table = summarise(rows_by_hand()).set_index(["topic", "edit"])
    assert table.loc[("all", SHUFFLED), "distance"] == pytest.approx((2.0 + 1.6) / 2)
    assert table.loc[("all", SHUFFLED), ["n", "seeds"]].tolist() == [2, 2]  # the prompts are the same in both topics
    assert table.loc[("all", SHUFFLED), ["distance_low", "distance_high"]].tolist() == pytest.approx([1.3, 2.3])
    one = summarise(rows_by_hand().query("topic == 'law'"))
    assert set(one["topic"]) == {"law"}


def test_column_that_a_topic_lacks_has_no_row_over_all_topics() -> None:
    rows = rows_by_hand()
    table = summarise(rows[(rows["topic"] != "law") | (rows["edit"] != SHUFFLED)])
    assert SHUFFLED in set(table[table["topic"] == "cooking"]["edit"])
    assert set(table[table["topic"] == "all"]["edit"]) == set(rows["edit"]) - {SHUFFLED}
    pairs = compare(rows[(rows["topic"] != "law") | (rows["edit"] != SHUFFLED)], figures=("distance",))
    assert pairs["topic"].tolist() == ["cooking"]  # the only topic with both columns of the pair


def test_texts_saved_before_stay_but_for_those_written_again() -> None:
    saved, new = rows_by_hand(), rows_by_hand().query("topic == 'law'").assign(distance=9.0)
    assert with_saved(new, None) is new
    both = with_saved(new, saved)
    assert len(both) == len(saved)
    assert (both[both["topic"] == "law"]["distance"] == 9.0).all()
    pd.testing.assert_frame_equal(
        both[both["topic"] == "cooking"].reset_index(drop=True),
        saved[saved["topic"] == "cooking"].reset_index(drop=True),
    )


def test_compare_pairs_prompts_within_topics() -> None:
    table = compare(rows_by_hand(), figures=("distance",)).set_index("topic")
    assert table.loc["law", "difference"] == pytest.approx(-0.5)
    assert table.loc["cooking", "difference"] == pytest.approx(-0.1)
    assert table.loc["all", "difference"] == pytest.approx(-0.3)
    assert table.loc["law", ["low", "high"]].tolist() == pytest.approx([-0.5, -0.5])
    assert table.loc["all", "n"] == 2
    assert table.loc["all", ["low", "high"]].tolist() == pytest.approx(
        [-0.3, -0.3]
    )  # the topics' mean, for each prompt
    assert set(table["second"]) == {SHUFFLED}  # the other pairs' columns are not there


def test_figures_not_measured_have_no_mean() -> None:
    table = summarise(rows_by_hand().assign(acceptability=np.nan))
    assert table["acceptability"].isna().all()
    assert compare(rows_by_hand().assign(acceptability=np.nan), figures=("acceptability",))["n"].tolist() == [0, 0, 0]


# ---- prompts ----


def sets_of(topic: Topic, names: Sequence[str], n: int) -> dict[str, PromptSet]:
    return {each.name: each for each in prompt_sets(topic, names, n)}


def test_metaphors_continue_medicine_and_openings_the_others() -> None:
    medical, law = (bundled_topics()[name] for name in ("medical", "law"))
    metaphors = sets_of(medical, ["main"], 20)["metaphors"]
    assert metaphors.prompts[0] == "What should I do about my heart of stone"
    assert (len(metaphors.prompts), metaphors.topic) == (12, medical)
    assert [each.prompts for each in prompt_sets(law, ["main"], 3)] == [continuations()[:3]]


def test_aligned_prompts_are_the_topics_own_and_held_out() -> None:
    topic = Topic("t", "T", ("a", "b", "c", "d", "e"))
    sets = sets_of(topic, ["aligned", "unaligned"], 20)
    assert (sets["aligned"].prompts, sets["aligned"].topic.prompts) == (["b", "d"], ("a", "c", "e"))
    assert sets["unaligned"].topic == topic
    assert list(sets) == ["unaligned", "aligned"]  # those of the whole topic first


def test_aligned_prompts_are_no_reference_prompts() -> None:
    reference = {prompt.text for prompt in reference_prompts(EMBEDDED_REFERENCE)}
    assert not reference & {prompt for topic in bundled_topics().values() for prompt in topic.prompts}


def test_topic_of_one_prompt_holds_none_out() -> None:
    with pytest.raises(UsageError, match=r"has one prompt.*--prompts main,unaligned"):
        prompt_sets(Topic("t", "heart surgery", ("heart surgery",)), ["main", "aligned"], 5)


def test_strengths_are_chosen_on_prompts_that_are_not_reported() -> None:
    reported = prompt_sets(bundled_topics()["law"], ["main", "aligned", "unaligned"], 1_000)
    assert len(tuning_prompts()) == 8
    assert not {prompt for each in reported for prompt in each.prompts} & set(tuning_prompts())
    assert next(each for each in reported if each.name == "unaligned").prompts == unaligned_prompts()[:20]


@pytest.mark.parametrize("names", [(), ("main", "nearest")])
def test_unknown_prompts(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="there are main, aligned, unaligned"):
        prompt_sets(LAW, names, 5)


# ---- the whole experiment ----


def topic_columns(bench: Workbench, options: ExperimentOptions, **changes: Any) -> TopicColumns:
    settings = {"steering": SteeringSettings(), "scored": bench.score(LAW), **changes}
    return TopicColumns(bench=bench, generation=options.generation, **settings)


@pytest.fixture(scope="module")
def options() -> ExperimentOptions:
    return ExperimentOptions(
        topics=(LAW,),
        n=2,
        seeds=2,
        columns=COLUMNS,
        prompts=("main",),
        generation=GenerationSettings(max_new_tokens=4, seed=3),
    )


@pytest.fixture(scope="module")
def tables(bench: Workbench, options: ExperimentOptions) -> dict[str, pd.DataFrame]:
    return run(bench, options)


def test_run_writes_every_prompt_and_seed_in_every_column(tables: dict[str, pd.DataFrame]) -> None:
    rows = tables["text-rows"]
    assert rows.groupby("edit").size().to_dict() == dict.fromkeys(COLUMNS, 4)
    for _, column in rows.groupby("edit"):
        assert column["seed"].tolist() == [3, 4, 5, 6]
        assert column["prompt"].tolist() == continuations()[:2] * 2
    assert tables["text"][["n", "seeds"]].drop_duplicates().to_numpy().tolist() == [[2, 2]]


def test_run_says_how_long_it_took(tables: dict[str, pd.DataFrame]) -> None:
    (took,) = tables["text-run"].to_dict("records")
    assert (took["texts"], took["tokens"]) == (4 * len(COLUMNS), 4)
    assert took["seconds"] > 0


def test_aligned_texts_are_steered_and_measured_by_the_other_half(bench: Workbench) -> None:
    topic = Topic("law", "Law", ("A contract is void.", "The court rules on the case.", "The judge was late."))
    shares: list[float] = []
    options = ExperimentOptions(
        topics=(topic,), n=2, columns=("swap", "ft"), generation=GenerationSettings(max_new_tokens=4)
    )
    rows, _ = write_texts(bench, options, lambda stage, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(set(shares)) > 3 * 2 * 4  # every token of two columns in three sets, and fine-tuning
    aligned = rows[(rows["prompts"] == "aligned") & (rows["edit"] == "swap")]
    assert aligned["prompt"].tolist() == ["The court rules on the case."]
    shown = bench.score(Topic("law", "Law", ("A contract is void.", "The judge was late.")))
    way = bench.way("swap", shown, SteeringSettings())
    made = bench.together([way], aligned["prompt"].tolist(), shown, options.generation).finish()
    assert aligned["text"].tolist() == [g.text for g in made]
    assert aligned["distance"].tolist() == [bench.figures(made, shown)[0]["distance"]]


def test_columns_write_what_their_edits_do(
    bench: Workbench, options: ExperimentOptions, tables: dict[str, pd.DataFrame]
) -> None:
    rows = tables["text-rows"].set_index(["edit", "seed"])["text"]
    scored = bench.score(LAW)
    for name in ("none", "sae", "swap", "prompt"):
        way = bench.way(name, scored, SteeringSettings())
        made = bench.together([way], continuations()[:2] * 2, scored, options.generation).finish()
        assert rows[name].tolist() == [g.text for g in made]
    assert rows["ft"].tolist() != rows["none"].tolist()
    assert rows["random"].tolist() != rows["strawman"].tolist()


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "swap-min-100"])  # the bench has 96 prompts
def test_variant_is_its_column_with_one_setting_changed(
    bench: Workbench, options: ExperimentOptions, name: str
) -> None:
    variant = VARIANTS[name]
    tuned = {name: 2.0} if variant.of in TUNED else {}
    columns = topic_columns(bench, options, strengths=tuned)
    settings = replace(SteeringSettings(), **variant.steering)
    scored = bench.score(LAW, ScoreSettings(min_prompts=variant.min_prompts or ScoreSettings().min_prompts))
    expected = topic_columns(bench, options, steering=settings, scored=scored, strengths={variant.of: 2.0})
    prompts = continuations()[:2]
    ways = [columns.way(name), expected.way(variant.of)]
    own, other = np.split(
        np.array([g.ids for g in bench.together(ways, prompts, None, options.generation).finish()]), 2
    )
    assert (own == other).all()
    assert ways[0].name == name


def test_variant_has_a_strength_of_its_own(bench: Workbench, options: ExperimentOptions) -> None:
    columns = topic_columns(bench, options)
    columns.way("clamp-tuned-1")
    assert set(columns.strengths) == {"clamp-tuned-1"}
    assert {trial["edit"] for trial in columns.trials} == {"clamp-tuned-1"}
    assert sum(bool(trial["chosen"]) for trial in columns.trials) == 1


def test_shuffled_swap_keeps_the_scores_but_not_whose_they_are(bench: Workbench, options: ExperimentOptions) -> None:
    score = bench.score(LAW).scores.steering_vector()
    (placed,) = topic_columns(bench, options).way(SHUFFLED).placed
    shuffled = placed.edit.score.numpy()
    assert (shuffled != score).any()
    assert np.sort(shuffled).tolist() == pytest.approx(np.sort(score).tolist())
    assert ((shuffled > 0) == (score > 0)).all()


def test_every_layer_is_steered(bench: Workbench, options: ExperimentOptions) -> None:
    columns = topic_columns(bench, options, also=(bench,))
    assert [len(columns.way(name).placed) for name in ("none", "sae", "swap", SHUFFLED)] == [0, 2, 2, 2]


def test_figures_are_within_their_ranges(tables: dict[str, pd.DataFrame]) -> None:
    rows = tables["text-rows"]
    assert (rows["perplexity"] > 1).all()
    for name, high in (("distance", 2), ("confidence", 1), ("concept", 2), ("fluency", 2), ("concept_fluency", 2)):
        assert rows[name].between(0, high).all(), name
    assert rows.loc[rows["edit"] == "none", "contamination"].isna().all()
    assert rows.loc[rows["edit"] == "swap", "contamination"].notna().all()


def test_each_tuned_column_has_the_strength_that_did_best(tables: dict[str, pd.DataFrame]) -> None:
    trials, rows = tables["text-strengths"], tables["text-rows"]
    tuned = [name for name in COLUMNS if name in TUNED]
    assert set(trials["edit"]) == set(tuned)
    for name in tuned:
        tried = trials[trials["edit"] == name]
        assert tried["strength"].tolist() == list(TUNED[name])
        best = tried.loc[tried["concept_fluency"].idxmax()]
        assert tried.loc[tried["chosen"], "strength"].tolist() == [best["strength"]]
        assert set(rows.loc[rows["edit"] == name, "strength"]) == {best["strength"]}
    assert rows.loc[rows["edit"] == "swap", "strength"].isna().all()


def test_pairs_are_those_whose_columns_were_written(tables: dict[str, pd.DataFrame]) -> None:
    pairs = tables["text-pairs"][["first", "second"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["swap", "sae"], ["swap", "none"], ["swap", SHUFFLED], ["strawman", "random"]]


def test_acceptability_is_a_share_or_not_available(
    bench: Workbench, options: ExperimentOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(options, columns=("none",), seeds=1)

    class Judge(Acceptability):
        def __init__(self) -> None:
            pass

        def probabilities(self, texts: list[str]) -> np.ndarray:
            return np.array([0.5, 0.49])

    monkeypatch.setattr("core.evaluation.text.load_acceptability", Judge)
    tables = run(bench, few)
    assert tables["text-rows"]["accepted"].tolist() == [1.0, 0.0]
    assert tables["text"].loc[0, ["accepted", "acceptability"]].tolist() == pytest.approx([0.5, 0.495])
    monkeypatch.setattr("core.evaluation.text.load_acceptability", lambda: None)
    assert run(bench, few)["text"][["accepted", "acceptability"]].isna().all(axis=None)


def test_judge_rates_every_text_where_asked(
    bench: Workbench, options: ExperimentOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fake:
        def rate_all(self, texts: list[tuple[str, str, str]], progress: object) -> list[Rating]:
            assert {topic for topic, _, _ in texts} == {"Law"}
            return [Rating(2, 1, 1), Rating()]

    monkeypatch.setattr("core.evaluation.text.judge_from_environment", Fake)
    few = replace(options, columns=("none",), seeds=1)
    rows = run(bench, replace(few, judge=True))["text-rows"]
    assert rows["judged"].tolist()[0] == pytest.approx(1.2)
    assert rows.loc[0, ["judged_concept", "judged_instruction", "judged_fluency"]].tolist() == [2, 1, 1]
    assert np.isnan(rows["judged"][1])
    assert run(bench, few)["text-rows"]["judged"].isna().all()


def test_judge_that_is_not_configured_is_told_at_once(
    bench: Workbench, options: ExperimentOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEERSCOPE_JUDGE_URL", raising=False)
    with pytest.raises(UsageError, match="no judge is configured"):
        run(bench, replace(options, judge=True))


def test_output_needs_output_scores(bench: Workbench, options: ExperimentOptions) -> None:
    with pytest.raises(UsageError, match=r"the column 'output' needs output scores; run first: .* --what output"):
        run(bench, replace(options, columns=("output",)))


def test_unknown_column(bench: Workbench, options: ExperimentOptions) -> None:
    with pytest.raises(UsageError, match="no column 'swop'; there are paper, strength, all, ft, none, sae"):
        run(bench, replace(options, columns=("swap", "swop")))


def test_unsteered_text_is_always_among_the_columns() -> None:
    assert check_columns(("swap", "sae", "swap")) == ("none", "swap", "sae")
    assert check_columns(("sae", "none")) == ("sae", "none")


def test_names_are_split_at_commas() -> None:
    assert split_names(" swap, sae,") == ("swap", "sae")
    assert list(find_experiments("text, cost")) == ["text", "cost"]
