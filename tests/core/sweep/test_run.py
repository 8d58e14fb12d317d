"""Alpha sweeps on a tiny chat model: alphas as typed, answers against a plain loop, windows by hand, resuming."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.build.pipeline import build
from core.catalog import find_setup
from core.cli import main
from core.errors import (
    ChatSetupError,
    EditError,
    JudgeError,
    NeuronRangeError,
    PromptTooLongError,
    SettingsError,
    UsageError,
)
from core.models.judge import Judge
from core.results.app_store import AppStore
from core.steering.metrics import distinct_n, language_switch, repetition
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.sweep import run as sweep_module
from core.sweep.request import (
    MAX_ALPHAS,
    SweepSettings,
    check_neuron,
    means_table,
    parse_alphas,
    random_neuron,
    read_questions,
    rows_table,
    strongest_on,
    swept_neurons,
    wide_enough,
)
from core.sweep.run import (
    answer_rows,
    answers,
    auto_alphas,
    available_measures,
    mean_residual_norm,
    run_sweep,
    sweep_alphas,
)
from core.sweep.windows import compare_neurons, find_windows, mark_collapsed, means_by_alpha
from tests.fixtures.autoencoders import HOOK_LAYER
from tests.fixtures.judge_endpoint import Endpoint

SETUP = "qwen2-jumprelu"
NEURON = 5
QUESTIONS = ("Why is the sea salty?", "Name two birds.", "How do I boil an egg?")
ALPHAS = (0.0, 3.0, 40.0)
SETTINGS = SweepSettings(alphas=ALPHAS, questions=QUESTIONS, max_new_tokens=8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Path:
    """Stores of the chat setup and of a base one."""
    root = tmp_path_factory.mktemp("sweep")
    for name in (SETUP, "gpt2-topk"):
        build(find_setup(name, user_setups), root)
    return root


@pytest.fixture(scope="module")
def bench(root: Path, user_setups: Path) -> Iterator[Workbench]:
    with Store.open(root, SETUP) as store:
        yield open_workbench(find_setup(SETUP, user_setups), store)


# ---- what is asked ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:150:25", (0, 25, 50, 75, 100, 125, 150)),
        ("0:100:30", (0, 30, 60, 90)),
        ("25:75:25", (0, 25, 50, 75)),
        ("0:0.3:0.1", (0, 0.1, 0.2, 0.3)),
        ("-2:2:1", (-2, -1, 0, 1, 2)),
        ("50, 25,25", (0, 25, 50)),
        ("7", (0, 7)),
        (" AUTO ", None),
    ],
)
def test_alphas_are_read_as_typed(text: str, expected: tuple[float, ...] | None) -> None:
    assert parse_alphas(text) == expected


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(0, MAX_ALPHAS - 2), st.sampled_from([1, 10, 1000]))
def test_range_of_alphas_reaches_its_end(start: int, step: int, n: int, unit: int) -> None:
    alphas = parse_alphas(f"{start / unit}:{(start + n * step) / unit}:{step / unit}")
    assert alphas == tuple(sorted({0.0, *((start + i * step) / unit for i in range(n + 1))}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nan", "alpha is finite and of at most 30 digits, not nan"),
        ("0,inf", "alpha is finite and of at most 30 digits, not inf"),
        ("0:nan:1", "alpha is finite and of at most 30 digits, not nan"),
        ("1e999", "alpha is finite and of at most 30 digits, not 1e999"),
        ("0:1e9:1e-9", "at most 33 alphas"),
        ("0:1e-300:1e-999999", "of at most 30 digits, not 1e-300"),
        ("0:33:1", "at most 33 alphas"),
        (",".join(map(str, range(1, 34))), "at most 33 alphas"),
        ("5:1:1", "ends above its start"),
        ("0:10:0", "a step above 0"),
        ("0:10", "a start, an end and a step"),
        ("a lot", "'a lot' is no number"),
        ("", "'' is no number"),
    ],
)
def test_alphas_that_cannot_be_say_why(text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        parse_alphas(text)


def test_settings_without_the_unsteered_answer_are_refused() -> None:
    with pytest.raises(SettingsError, match="0 is among the alphas"):
        SweepSettings(alphas=(25.0,))
    with pytest.raises(SettingsError, match="at least one question"):
        SweepSettings(questions=())


def test_the_ten_bundled_questions_are_the_default(tmp_path: Path) -> None:
    assert len(read_questions(None)) == len(SweepSettings().questions) == 10
    (tmp_path / "mine.txt").write_text("One?\n\nTwo?\n", encoding="utf-8")
    assert read_questions(tmp_path / "mine.txt") == ("One?", "Two?")


def test_auto_alphas_reach_twice_the_mean_norm() -> None:
    assert auto_alphas(10.0, 1.0) == (0, 2.5, 5, 7.5, 10, 12.5, 15, 17.5, 20)
    assert auto_alphas(10.0, 4.0)[-1] == 5  # a row four times as long shifts four times as far
    assert auto_alphas(1 / 3, 1.0)[-1] == 0.667
    with pytest.raises(EditError, match="decoder row is zero"):
        auto_alphas(10.0, 0.0)


def test_mean_norm_is_over_the_questions_own_tokens(bench: Workbench) -> None:
    norms = []
    for question in QUESTIONS:
        prompt = bench.model.tokenise(question)
        states = bench.model.model(torch.tensor([prompt.ids]), output_hidden_states=True).hidden_states[HOOK_LAYER + 1]
        norms += [float(x.norm()) for x, special in zip(states[0], prompt.special, strict=True) if not special]
    assert mean_residual_norm(bench, QUESTIONS) == pytest.approx(np.mean(norms), rel=1e-4)
    auto = sweep_alphas(bench, NEURON, SweepSettings(questions=QUESTIONS), mean_residual_norm(bench, QUESTIONS))
    shift = auto[-1] * float(bench.sae.W_dec[NEURON].norm())
    assert shift == pytest.approx(2 * np.mean(norms), rel=0.01)


def test_random_neuron_is_active_and_repeatable(bench: Workbench) -> None:
    drawn = {random_neuron(bench.store, seed) for seed in range(40)}
    active = set(bench.store.neurons().query("tokens > 0")["neuron"])
    assert len(drawn) > 10
    assert drawn <= active
    assert random_neuron(bench.store, 3) == random_neuron(bench.store, 3)
    first = random_neuron(bench.store, 3)
    assert random_neuron(bench.store, 3, exclude=[first]) != first
    assert random_neuron(bench.store, 3, exclude=sorted(drawn - {first})[:5]) == first  # others left out change nothing
    assert random_neuron(bench.store, 0, exclude=sorted(active - {7})) == 7
    with pytest.raises(SettingsError, match="none to draw"):
        random_neuron(bench.store, 0, exclude=sorted(active))


def test_neuron_of_another_sae_is_refused_with_the_setups_that_are_wide_enough(
    user_setups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(user_setups))
    assert "qwen2-topk" in wide_enough(191)
    assert "qwen2-topk" not in wide_enough(192)
    with pytest.raises(NeuronRangeError, match=r"13794 is out of range.*\(192 in all\).*another neuron in another SAE"):
        check_neuron(13794, 192)
    with pytest.raises(NeuronRangeError, match=r"wide enough: .*gpt2-topk"):
        check_neuron(5, 4)
    with pytest.raises(NeuronRangeError, match="no SAE on this machine is wide enough"):
        check_neuron(10**9, 4)


def test_strongest_neuron_of_a_token() -> None:
    table = pd.DataFrame({"token": ["user", "user", "x"], "rank": [2, 1, 1], "neuron": [3, 4, 5]})
    assert strongest_on(table, "user", "tiny") == 4
    with pytest.raises(UsageError, match=r"no template token 'robot' .* there are user, x"):
        strongest_on(table, "robot", "tiny")
    with pytest.raises(UsageError, match="python -m core evaluate tiny --what special"):
        strongest_on(None, "user", "tiny")


# ---- answers ----


@torch.no_grad()
def plain_answer(bench: Workbench, question: str, alpha: float, n: int) -> tuple[list[int], list[float]]:
    """Greedy decoding with a forward hook of its own, no cache; with the probability of each chosen token."""
    row = alpha * bench.sae.W_dec[NEURON]
    block = bench.model.model.model.layers[HOOK_LAYER]

    def add(_module: object, _inputs: object, output: object) -> object:
        return (output[0] + row, *output[1:]) if isinstance(output, tuple) else output + row  # type: ignore[index]

    ids, chosen, probabilities = bench.model.tokenise(question, generate=True).ids, [], []
    handle = block.register_forward_hook(add)
    try:
        for _ in range(n):
            probability = bench.model.model(torch.tensor([[*ids, *chosen]])).logits[0, -1].softmax(-1)
            best = int(probability.argmax())
            if best in bench.model.end_token_ids:
                break
            chosen.append(best)
            probabilities.append(float(probability[best]))
    finally:
        handle.remove()
    return chosen, probabilities


def test_answers_of_one_batch_are_those_of_a_plain_loop(bench: Workbench) -> None:
    made = answers(bench, NEURON, QUESTIONS[0], ALPHAS, 8).finish()
    plain = [plain_answer(bench, QUESTIONS[0], alpha, 8) for alpha in ALPHAS]
    assert [g.ids for g in made] == [ids for ids, _ in plain]
    assert len({tuple(g.ids) for g in made}) == 3  # the alphas do something
    table = answer_rows(bench, NEURON, QUESTIONS[0], ALPHAS, made)
    expected = [math.exp(np.mean(np.log(probabilities))) for _, probabilities in plain]
    assert table["confidence"].tolist() == pytest.approx(expected, rel=1e-4)
    assert table["alpha"].tolist() == list(ALPHAS)
    assert table["text"].tolist() == [g.text for g in made]
    for row, generation in zip(table.to_dict("records"), made, strict=True):
        assert row["distinct_3"] == distinct_n(generation.ids, 3)
        assert row["repetition"] == repetition(generation.ids)
        usual = f"{QUESTIONS[0]} {made[0].text}"
        assert row["language_switch"] == pytest.approx(language_switch(generation.text, usual), nan_ok=True)
    assert table["acceptability"].isna().all()  # nobody measured it
    assert table["judge"].isna().all()


def test_unsteered_row_is_untouched_in_a_batch(bench: Workbench) -> None:
    batch = answers(bench, NEURON, QUESTIONS[1], ALPHAS, 8).finish()
    assert batch[0].ids == answers(bench, NEURON, QUESTIONS[1], (0.0,), 8).finish()[0].ids
    assert [g.positions_edited == g.positions_run for g in batch] == [False, True, True]
    assert batch[0].positions_edited == 0


def test_alpha_that_overflows_collapses_alone(bench: Workbench, tmp_path: Path) -> None:
    settings = SweepSettings(alphas=(0.0, 3.0, 1e200, 1e300), questions=QUESTIONS[:1], max_new_tokens=8)
    rows = run_sweep(bench, NEURON, settings, AppStore(tmp_path), SETUP)
    assert rows["overflow"].tolist() == [False, False, True, True]
    assert rows["collapsed"].tolist()[0] is False
    assert rows["collapsed"].tolist()[2:] == [True, True]
    assert rows["text"].tolist()[2:] == ["", ""]
    assert rows["perplexity"].isna().tolist() == [False, False, True, True]
    plain = [g.text for g in answers(bench, NEURON, QUESTIONS[0], (0.0, 3.0), 8).finish()]
    assert rows["text"].tolist()[:2] == plain
    assert find_windows(rows).collapse == (1e200,)
    assert means_by_alpha(rows)["perplexity"].isna().tolist() == [False, False, True, True]


def test_further_measures_are_asked_only_of_answers(bench: Workbench, tmp_path: Path) -> None:
    asked: list[tuple[list[str], list[str]]] = []

    def judge(questions: list[str], texts: list[str]) -> list[float]:
        asked.append((list(questions), list(texts)))
        return [float(len(asked)) + i for i in range(len(texts))]

    settings = SweepSettings(alphas=(0.0, 3.0, 1e300), questions=QUESTIONS[:2], max_new_tokens=4)
    rows = run_sweep(bench, NEURON, settings, AppStore(tmp_path), SETUP, measures={"judge": judge})
    assert [questions for questions, _ in asked] == [[QUESTIONS[0]] * 2, [QUESTIONS[1]] * 2]
    assert rows["judge"].tolist()[:2] == [1.0, 2.0]
    assert math.isnan(rows["judge"][2])
    assert find_windows(rows).improved_by == "judge"


def test_answers_that_are_there_are_only_measured(
    bench: Workbench, tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, results = SweepSettings(alphas=(0.0, 3.0), questions=QUESTIONS[:2], max_new_tokens=4), AppStore(tmp_path)
    plain = run_sweep(bench, NEURON, settings, results, SETUP)
    assert plain["judge"].isna().all()
    monkeypatch.setattr("core.sweep.run.answers", lambda *_: pytest.fail("answered again"))
    monkeypatch.setattr("core.sweep.run.load_acceptability", lambda: None)
    endpoint.answer = lambda asked: "2 1" if QUESTIONS[0] in asked else "2 2"
    measures = available_measures(Judge(endpoint.url, "m"))
    rows = run_sweep(bench, NEURON, settings, results, SETUP, measures=measures)
    assert rows["judge"].tolist() == pytest.approx([4 / 3, 4 / 3, 2, 2])
    assert rows["text"].tolist() == plain["text"].tolist()
    saved, means = (results.result(SETUP, table(NEURON)) for table in (rows_table, means_table))
    assert saved is not None
    assert means is not None
    assert saved["judge"].tolist() == rows["judge"].tolist()
    assert means["judge"].tolist() == pytest.approx([5 / 3, 5 / 3])
    run_sweep(bench, NEURON, settings, results, SETUP, measures=measures)
    assert len(endpoint.asked) == 4  # no answer is rated twice


def test_a_judge_that_gives_up_leaves_the_answers(bench: Workbench, tmp_path: Path, endpoint: Endpoint) -> None:
    settings, results = SweepSettings(alphas=(0.0, 3.0), questions=QUESTIONS[:2], max_new_tokens=4), AppStore(tmp_path)
    endpoint.answer = lambda asked: "2 1" if QUESTIONS[0] in asked else 401
    measures = available_measures(Judge(endpoint.url, "m"))
    with pytest.raises(JudgeError, match="status 401"):
        run_sweep(bench, NEURON, settings, results, SETUP, measures=measures)
    saved = results.result(SETUP, rows_table(NEURON))
    assert saved is not None
    assert saved["question"].tolist() == [1, 1, 2, 2]
    assert saved["judge"].isna().tolist() == [False, False, True, True]


# ---- windows ----


def swept(perplexity: dict[float, list[float]], **figures: dict[float, list[float]]) -> pd.DataFrame:
    """Rows with these figures by alpha, one a question; the others are the same everywhere."""
    rows = [
        {
            "question": question,
            "alpha": alpha,
            "shift": alpha / 100,
            "overflow": False,
            "n_tokens": 64.0,
            "perplexity": value,
            **{name: 0.5 for name in ("distinct_2", "distinct_3", "repetition", "confidence", "language_switch")},
            **{name: values[alpha][question] for name, values in figures.items()},
            "acceptability": math.nan,
            "judge": math.nan,
        }
        for alpha, values in perplexity.items()
        for question, value in enumerate(values)
    ]
    table = pd.DataFrame(rows)
    marked = [mark_collapsed(group) for _, group in table.groupby("question")]
    return table.assign(collapsed=pd.concat(marked))


def test_collapse_by_hand() -> None:
    rows = pd.DataFrame(
        {
            "alpha": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "overflow": [False, False, True, False, False, False, False],
            "n_tokens": [64.0, 64.0, 0.0, 0.0, 64.0, 64.0, 64.0],
            "perplexity": [20.0, 200.0, math.nan, math.nan, 200.1, 20.0, 20.0],
            "repetition": [0.4, 0.4, math.nan, math.nan, 0.4, 0.7, 0.71],  # halfway from 0.4 to 1 is 0.7
        }
    )
    assert mark_collapsed(rows).tolist() == [False, False, True, True, True, False, True]
    rows.loc[0, "n_tokens"] = 0.0  # unsteered it says nothing either
    assert mark_collapsed(rows)[3] == False  # noqa: E712 - a numpy truth value


def test_harmless_window_ends_where_perplexity_leaves_its_tolerance() -> None:
    # geometric means of the ratios: 1, sqrt(2 * 0.5) = 1, sqrt(1.5 * 6) = 3, 1
    rows = swept({0.0: [10, 20], 25.0: [20, 10], 50.0: [15, 120], 75.0: [10, 20]})
    windows = find_windows(rows)
    assert windows.harmless == (0.0, 25.0)  # 75 lies behind a gap
    assert windows.collapse == ()
    assert means_by_alpha(rows).set_index("alpha")["perplexity_ratio"].to_dict() == pytest.approx(
        {0.0: 1.0, 25.0: 1.0, 50.0: 3.0, 75.0: 1.0}
    )


def test_harmless_window_goes_both_ways_from_0() -> None:
    rows = swept({-50.0: [90, 90], -25.0: [10, 10], 0.0: [10, 10], 25.0: [20, 20], 50.0: [101, 101]})
    windows = find_windows(rows)
    assert windows.harmless == (-25.0, 25.0)
    assert windows.collapse == (50.0,)  # 90 is not over ten times 10


def test_harmless_window_takes_at_most_a_tenth_of_collapsed_answers() -> None:
    perplexity = {alpha: [10.0] * 10 for alpha in (0.0, 1.0, 2.0)}
    repeated = {0.0: [0.2] * 10, 1.0: [0.9] + [0.2] * 9, 2.0: [0.9] * 2 + [0.2] * 8}
    windows = find_windows(swept(perplexity, repetition=repeated), "distinct_2")
    assert windows.harmless == (0.0, 1.0)
    assert windows.collapse == ()


def test_improved_window_needs_an_interval_on_the_better_side() -> None:
    perplexity = {alpha: [10.0, 10.0, 10.0] for alpha in (0.0, 1.0, 2.0, 3.0, 4.0)} | {5.0: [30.0] * 3}
    better, unsure = [0.6, 0.7, 0.6], [0.9, 0.9, 0.4]
    distinct = {0.0: [0.5] * 3, 1.0: better, 2.0: unsure, 3.0: better, 4.0: better, 5.0: better}
    windows = find_windows(swept(perplexity, distinct_2=distinct))
    assert (windows.improved_by, windows.harmless) == ("distinct_2", (0.0, 4.0))
    assert windows.improved == (3.0, 4.0)  # the longest run; 5 is not fluent
    lower = find_windows(
        swept(perplexity, repetition={a: [1 - v for v in x] for a, x in distinct.items()}), "repetition"
    )
    assert lower.improved == (3.0, 4.0)  # where less is better
    assert find_windows(swept(perplexity, distinct_2={a: [0.5] * 3 for a in perplexity})).improved is None


def test_one_question_proves_no_improvement() -> None:
    rows = swept({0.0: [10.0], 1.0: [10.0]}, distinct_2={0.0: [0.1], 1.0: [0.9]})
    assert find_windows(rows).improved is None


def test_neurons_are_compared_by_their_windows() -> None:
    strong = swept({0.0: [10, 20], 25.0: [200, 400]})
    weak = swept({0.0: [10, 20], 25.0: [10, 20]})
    table = compare_neurons({7: strong, 3: weak})
    assert table["neuron"].tolist() == [7, 3]
    assert table["harmless_to"].tolist() == [0.0, 25.0]
    assert table["collapse"].tolist() == pytest.approx([25.0, math.nan], nan_ok=True)


def test_means_have_intervals_over_questions() -> None:
    line = means_by_alpha(swept({0.0: [10.0, 20.0], 1.0: [10.0, 40.0]})).set_index("alpha").loc[1.0]
    assert (line["perplexity"], line["n"], line["collapsed"]) == (25.0, 2, 0.0)
    assert (line["perplexity_low"], line["perplexity_high"]) == pytest.approx((10.0, 40.0))
    assert line["perplexity_ratio"] == pytest.approx(math.sqrt(1 * 2))


# ---- a sweep that stops, and goes on ----


class _StopError(Exception):
    pass


def stop_after(n: int) -> object:
    told = iter(range(1, 100))

    def progress(_stage: str, _share: float) -> None:
        if next(told) == n:
            raise _StopError

    return progress


@pytest.mark.parametrize("n", [1, 2])
def test_stopped_sweep_continues_without_a_row_twice(
    bench: Workbench, tmp_path: Path, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_sweep(bench, NEURON, SETTINGS, AppStore(tmp_path / "whole"), SETUP)
    results = AppStore(tmp_path / "stopped")
    with pytest.raises(_StopError):
        run_sweep(bench, NEURON, SETTINGS, results, SETUP, progress=stop_after(n))  # type: ignore[arg-type]
    assert results.result(SETUP, f"sweep-{NEURON}-rows")["question"].nunique() == n
    assert (results.result(SETUP, f"sweep-{NEURON}")["n"] == n).all()

    asked: list[str] = []
    monkeypatch.setattr(sweep_module, "answers", lambda *a: asked.append(a[2]) or answers(*a))
    rows = run_sweep(bench, NEURON, SETTINGS, results, SETUP)
    assert asked == list(QUESTIONS[n:])
    pd.testing.assert_frame_equal(rows, whole)
    pd.testing.assert_frame_equal(results.result(SETUP, f"sweep-{NEURON}-rows"), whole)
    assert len(rows) == len(rows[["question", "alpha"]].drop_duplicates()) == len(QUESTIONS) * len(ALPHAS)
    run_sweep(bench, NEURON, SETTINGS, results, SETUP)
    assert asked == list(QUESTIONS[n:])  # a finished sweep asks nothing


@pytest.mark.parametrize(
    "other",
    [
        SweepSettings(alphas=(0.0, 4.0), questions=QUESTIONS, max_new_tokens=8),
        SweepSettings(alphas=ALPHAS, questions=QUESTIONS[::-1], max_new_tokens=8),
        SweepSettings(alphas=ALPHAS, questions=QUESTIONS, max_new_tokens=4),
    ],
)
def test_rows_of_another_sweep_are_replaced(bench: Workbench, tmp_path: Path, other: SweepSettings) -> None:
    results = AppStore(tmp_path)
    with pytest.raises(_StopError):
        run_sweep(bench, NEURON, SETTINGS, results, SETUP, progress=stop_after(1))  # type: ignore[arg-type]
    rows = run_sweep(bench, NEURON, other, results, SETUP)
    assert rows["run"].nunique() == 1
    assert (rows["n_questions"] == len(other.questions)).all()
    assert len(rows) == len(other.questions) * len(other.alphas or ())
    assert swept_neurons(results.results()["what"]) == [NEURON]


def test_rebuilt_store_begins_anew(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = AppStore(tmp_path)
    first = run_sweep(bench, NEURON, SETTINGS, results, SETUP)
    monkeypatch.setitem(bench.store.meta, "fingerprint", "another")
    assert set(run_sweep(bench, NEURON, SETTINGS, results, SETUP)["run"]).isdisjoint(first["run"])


def test_sweep_can_begin_anew(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = AppStore(tmp_path)
    run_sweep(bench, NEURON, SETTINGS, results, SETUP)
    asked: list[str] = []
    monkeypatch.setattr(sweep_module, "answers", lambda *a: asked.append(a[2]) or answers(*a))
    run_sweep(bench, NEURON, SETTINGS, results, SETUP, resume=False)
    assert asked == list(QUESTIONS)


def test_question_too_long_ends_it_before_anything_is_run(bench: Workbench, tmp_path: Path) -> None:
    settings = SweepSettings(alphas=ALPHAS, questions=("Short?", "long " * 300), max_new_tokens=8)
    with pytest.raises(PromptTooLongError):
        run_sweep(bench, NEURON, settings, AppStore(tmp_path), SETUP)
    assert AppStore(tmp_path).results().empty


def test_base_model_is_refused(root: Path, user_setups: Path, tmp_path: Path) -> None:
    with Store.open(root, "gpt2-topk") as store:
        base = open_workbench(find_setup("gpt2-topk", user_setups), store)
        with pytest.raises(ChatSetupError, match="an alpha sweep needs a chat template"):
            run_sweep(base, NEURON, SETTINGS, AppStore(tmp_path), "gpt2-topk")


def test_model_with_a_template_is_asked_in_it_though_its_prompts_are_plain(
    bench: Workbench, root: Path, user_setups: Path, tmp_path: Path
) -> None:
    setup = replace(find_setup(SETUP, user_setups), chat=False, instruct=True)
    with Store.open(root, SETUP) as store:
        instruct = open_workbench(setup, store)
        assert instruct.model.chat is False
        assert mean_residual_norm(instruct, QUESTIONS) == mean_residual_norm(bench, QUESTIONS)
        rows = run_sweep(instruct, NEURON, SETTINGS, AppStore(tmp_path / "instruct"), SETUP)
    pd.testing.assert_frame_equal(rows, run_sweep(bench, NEURON, SETTINGS, AppStore(tmp_path / "chat"), SETUP))


@pytest.mark.slow
def test_killed_command_continues(root: Path, user_setups: Path, tmp_path: Path, bench: Workbench) -> None:
    """SIGKILL in the middle, the same sweep again: every row once, and those there were kept as they are."""
    os.symlink(root / SETUP, tmp_path / SETUP)
    command = [sys.executable, "-m", "core", "sweep", SETUP, "--neuron", str(NEURON), "--alphas", "0,3,40", "--tokens"]
    command += ["120", "--store", str(tmp_path)]
    environment = os.environ | {"STEERSCOPE_SETUPS": str(user_setups)}
    killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = AppStore(tmp_path)
    while (partial := results.result(SETUP, f"sweep-{NEURON}-rows")) is None:
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    partial = results.result(SETUP, f"sweep-{NEURON}-rows")
    assert 1 <= partial["question"].nunique() < 10
    run_sweep(bench, NEURON, SweepSettings(alphas=ALPHAS, max_new_tokens=120), results, SETUP)  # the same sweep
    rows = results.result(SETUP, f"sweep-{NEURON}-rows")
    assert sorted(zip(rows["question"], rows["alpha"], strict=True)) == [
        (question, alpha) for question in range(1, 11) for alpha in ALPHAS
    ]
    pd.testing.assert_frame_equal(rows.head(len(partial)), partial)


# ---- the command ----


@pytest.fixture
def stores(root: Path, tmp_path: Path, user_setups: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(user_setups))
    for name in (SETUP, "gpt2-topk"):
        os.symlink(root / name, tmp_path / name)
    return tmp_path


def test_command_prints_and_stores_a_sweep(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = stores / "questions.txt"
    questions.write_text("\n".join(QUESTIONS), encoding="utf-8")
    common = ["--alphas", "0:40:20", "--questions", str(questions), "--tokens", "6", "--store", str(stores)]
    assert main(["sweep", SETUP, "--neuron", "5", "--neuron", "9", "--random", "--seed", "1", *common, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    neurons = [line["neuron"] for line in printed["windows"]]
    assert neurons[:2] == [5, 9]
    assert neurons[2] not in (5, 9)
    assert [line["control"] for line in printed["windows"]] == [False, False, True]
    assert len(printed["answers"]) == 3 * 3 * len(QUESTIONS)
    results = AppStore(stores)
    for neuron in neurons:
        stored = results.result(SETUP, f"sweep-{neuron}")
        means = [line["perplexity"] for line in printed["means"] if line["neuron"] == neuron]
        assert stored["perplexity"].tolist() == means
        assert stored["alpha"].tolist() == [0.0, 20.0, 40.0]
    out = stores / "sweep.csv"
    assert main(["export", SETUP, "--what", "sweep-5-rows", "--out", str(out), "--store", str(stores)]) == 0
    assert pd.read_csv(out)["text"].fillna("").tolist() == [r["text"] for r in printed["answers"] if r["neuron"] == 5]


def test_command_finds_the_strongest_neuron_of_a_token(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"token": ["<|im_start|>", "user"], "rank": [1, 1], "neuron": [11, 12]})
    AppStore(stores).save_result(SETUP, "special", table)
    common = ["--alphas", "5", "--tokens", "2", "--store", str(stores)]
    assert main(["sweep", SETUP, "--strongest", "user", "--neuron", "12", *common]) == 0
    printed = capsys.readouterr()
    assert "Neuron 12: means over 10" in printed.out
    assert "Harmless: from 0 as far as" in printed.err
    assert swept_neurons(AppStore(stores).results()["what"]) == [12]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([SETUP, "--neuron", "13794"], "(192 in all); a number means another neuron in another SAE"),
        ([SETUP, "--neuron", "-1"], "neuron -1 is out of range"),
        ([SETUP], "name a neuron"),
        ([SETUP, "--neuron", "5", "--alphas", "nan"], "an alpha is finite"),
        ([SETUP, "--neuron", "5", "--alphas", "0:1e9:1"], "at most 33 alphas"),
        ([SETUP, "--neuron", "5", "--questions", "no-such.txt"], "no file 'no-such.txt'"),
        ([SETUP, "--neuron", "5", "--tokens", "0"], "max_new_tokens"),
        ([SETUP, "--neuron", "5", "--tokens", "500", "--alphas", "1"], "exceed the context"),
        ([SETUP, "--strongest", "user"], f"python -m core evaluate {SETUP} --what special"),
        (["gpt2-topk", "--neuron", "5"], "chat setups are smollm2, "),
        (["qwen2-gated", "--neuron", "5"], "python -m core build qwen2-gated"),
        (["nope", "--neuron", "5"], "no setup 'nope'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    stores: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *arguments, "--store", str(stores)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert words in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")
