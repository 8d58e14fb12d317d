"""A judge on this machine is asked about neurons: every answer is kept, none asked for twice, failures are told."""

import re
from collections import Counter

import pytest

from core.errors import JudgeError
from core.interpretability.contexts import NeuronContexts
from core.interpretability.ratings import ATTEMPTS, carry_out, make_plan, save
from core.interpretability.rubric import question
from core.models import judge as judge_module
from core.models.judge import Judge
from core.results.ratings import COLUMNS, RatingStore
from tests.core.interpretability.conftest import RATED
from tests.fixtures.judge_endpoint import Endpoint, Reply

GOOD = '{"summary": "words of a kind", "score": 4}'


def question_of(asked: str) -> str:
    """The question without the complaint about an earlier answer."""
    return asked.partition("\n\nYour last answer")[0]


def run(sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore, **options: bool) -> list[tuple]:
    plan = make_plan(sample, RATED, Judge(endpoint.url, "m"), results, **options)
    shares: list[float] = []
    carry_out(plan, results, lambda stage, share: shares.append(share))
    assert shares[-1:] == [1] * bool(plan.due)
    table = results.ratings("tiny")
    return list(zip(table["neuron"], table["score"], table["summary"], table["problem"], strict=True))


def test_every_neuron_is_asked_about_once_and_kept(
    sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore
) -> None:
    endpoint.replies = [GOOD]
    rows = run(sample, endpoint, results)
    assert sorted(neuron for neuron, *_ in rows) == sorted(shown.neuron for shown in sample)
    assert {row[1:] for row in rows} == {(4, "words of a kind", "")}
    assert Counter(endpoint.answered) == Counter(map(question, sample))
    table = results.ratings()
    assert tuple(table.columns) == COLUMNS
    assert (set(table["kind"]), set(table["rater"]), set(table["fingerprint"])) == ({"judge"}, {"m"}, {"fake"})
    assert run(sample, endpoint, results) == rows
    assert len(endpoint.asked) == len(sample)  # nothing is asked again


def test_the_plan_says_what_it_costs(sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore) -> None:
    plan = make_plan(sample, RATED, Judge(endpoint.url, "m"), results)
    characters = sum(len(question(shown)) for shown in sample)
    assert plan.tokens_in == characters // 4
    assert f"20 requests to m at {endpoint.url}, about {plan.tokens_in:,} tokens to read and 800 to write" in str(plan)
    assert endpoint.asked == []
    endpoint.replies = [GOOD]
    run(sample[:5], endpoint, results)
    assert "5 answered before; 15 requests" in str(make_plan(sample, RATED, Judge(endpoint.url, "m"), results))
    assert "5 answered before; nothing to ask m" in str(make_plan(sample[:5], RATED, Judge(endpoint.url, "m"), results))
    assert len(make_plan(sample, RATED, Judge(endpoint.url, "another"), results).due) == 20


def test_bad_answers_are_asked_for_again_with_the_reason(
    sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore
) -> None:
    endpoint.replies = ['{"summary": "a", "score": 9}', "I cannot say.", GOOD]
    assert [row[1:] for row in run(sample[:1], endpoint, results)] == [(4, "words of a kind", "")]
    asked = [request["messages"][0]["content"] for request in endpoint.asked]
    assert [question_of(text) for text in asked] == [question(sample[0])] * 3
    assert "not valid (score: Input should be less than or equal to 5)" in asked[1]
    assert "not valid (no JSON object)" in asked[2]


def test_a_neuron_without_a_valid_answer_is_kept_as_that(
    sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore
) -> None:
    hopeless = question(sample[0])
    endpoint.answer = lambda asked: "no" if question_of(asked) == hopeless else GOOD
    run(sample[:3], endpoint, results)
    table = results.ratings("tiny").set_index("neuron")
    assert table["score"].isna().sum() == 1
    assert table.loc[sample[0].neuron, "problem"] == "no JSON object"
    assert len(endpoint.asked) == ATTEMPTS + 2
    run(sample[:3], endpoint, results)
    assert len(endpoint.asked) == ATTEMPTS + 2  # not asked again unasked
    endpoint.answer = lambda asked: GOOD
    rows = run(sample[:3], endpoint, results, again=True)
    assert len(endpoint.asked) == ATTEMPTS + 3
    assert {row[1] for row in rows} == {4}


def test_a_busy_endpoint_is_waited_for(sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore) -> None:
    seen: Counter[str] = Counter()

    def answer(asked: str) -> Reply:
        seen[asked] += 1
        return {1: 429, 2: 500}.get(seen[asked], GOOD)

    endpoint.answer = answer
    assert {row[1] for row in run(sample, endpoint, results)} == {4}
    assert set(seen.values()) == {3}
    assert Counter(endpoint.answered) == Counter(map(question, sample))


@pytest.mark.parametrize("failure", [429, 500, 401, b"nonsense"])
def test_an_endpoint_that_gives_up_keeps_what_it_answered(
    sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore, failure: Reply
) -> None:
    bad = question(sample[6])
    endpoint.answer = lambda asked: failure if asked == bad else GOOD
    plan = make_plan(sample, RATED, Judge(endpoint.url, "m"), results)
    with pytest.raises(JudgeError, match="gives no answer"):
        carry_out(plan, results)
    kept = set(results.ratings("tiny")["neuron"])
    assert sample[6].neuron not in kept
    assert len(kept) == len(endpoint.answered) - (failure == b"nonsense")  # answers under way were kept, too
    endpoint.answer = lambda asked: GOOD
    run(sample, endpoint, results)
    assert Counter(map(question_of, endpoint.answered)).most_common(1)[0][1] <= 1 + (failure == b"nonsense")
    assert len(results.ratings("tiny")) == len(sample)


def test_an_endpoint_that_is_too_slow(
    sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_module, "_RETRIES", 0)
    monkeypatch.setattr(judge_module, "TIMEOUT_S", 0.1)
    endpoint.replies, endpoint.delay_s = [GOOD], 0.5
    with pytest.raises(JudgeError, match=r"timed out after 0\.1 s"):
        carry_out(make_plan(sample[:2], RATED, Judge(endpoint.url, "m"), results), results)
    assert results.ratings("tiny").empty
    endpoint.delay_s = 0
    assert len(run(sample[:2], endpoint, results)) == 2


def test_two_judges_and_a_person_rate_the_same_question(
    sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore
) -> None:
    endpoint.replies = [GOOD]
    for name in ("m", "n"):
        carry_out(make_plan(sample[:1], RATED, Judge(endpoint.url, name), results), results)
    results.save_ratings([RATED.rating(sample[0], "person", "Ada", 2, "something else")])
    table = results.ratings("tiny")
    assert list(zip(table["kind"], table["rater"], table["score"], strict=True)) == [
        ("judge", "m", 4), ("judge", "n", 4), ("person", "Ada", 2),
    ]  # fmt: skip
    assert table["question"].nunique() == 1
    results.save_ratings([RATED.rating(sample[0], "person", "Ada", 3)])  # thought better of
    assert results.ratings("tiny")["score"].tolist() == [4, 4, 3]


def test_questions_do_not_hold_the_key(sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore) -> None:
    endpoint.replies = [GOOD]
    carry_out(make_plan(sample, RATED, Judge(endpoint.url, "m", "secret-key"), results), results)
    assert b"secret-key" not in results.path.read_bytes()
    assert not any(re.search("secret", request["messages"][0]["content"]) for request in endpoint.asked)


def test_summaries_become_labels(sample: list[NeuronContexts], endpoint: Endpoint, results: RatingStore) -> None:
    endpoint.answer = lambda asked: GOOD if asked == question(sample[0]) else '{"summary": "odds and ends", "score": 1}'
    run(sample[:2], endpoint, results)
    first, second = sample[0].neuron, sample[1].neuron
    save(results, [RATED.rating(shown, "person", "Ada", 3, f"mine of {shown.neuron}") for shown in sample[:2]])
    save(results, [RATED.rating(sample[1], "person", "Bob", 3, "another")])  # takes nobody's label away
    labels = results.labels("tiny")
    assert set(zip(labels["neuron"], labels["source"], labels["label"], strict=True)) == {
        (first, "judge", "words of a kind"), (first, "user", f"mine of {first}"), (second, "user", f"mine of {second}"),
    }  # fmt: skip
