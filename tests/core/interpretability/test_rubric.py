"""The question, and which answers are valid."""

import numpy as np
import pytest

from core.interpretability.contexts import NeuronContexts
from core.interpretability.rubric import RUBRIC, BadAnswerError, parse_verdict, question, question_digest
from core.store.reader import Context


def context(tokens: list[str], activations: list[float]) -> Context:
    values = np.array(activations, dtype=np.float32)
    return Context(0, "".join(tokens), tokens, values, float(values.max()))


SHOWN = NeuronContexts(
    7,
    (
        context([" the", " heart", " beats", " {x}"], [0.0, 8.0, 4.0, 0.0]),
        context([" a", " chest", " faint"], [0.0, 2.0, 0.1]),
    ),
    "texts",
)


@pytest.mark.parametrize(
    ("answer", "score", "summary"),
    [
        ('{"summary": "rivers", "score": 5}', 5, "rivers"),
        ('{"score": 1, "summary": " no\\n pattern "}', 1, "no pattern"),
        ('Here it is:\n```json\n{"summary": "a", "score": 3}\n```', 3, "a"),
        ('{"summary": "a", "score": 3, "why": "because"}', 3, "a"),
    ],
)
def test_a_valid_answer(answer: str, score: int, summary: str) -> None:
    verdict = parse_verdict(answer)
    assert (verdict.score, verdict.summary) == (score, summary)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "no JSON object"),
        ("5", "no JSON object"),
        ("}{", "no JSON object"),
        ('{"summary": "a"}', "score: Field required"),
        ('{"score": 3}', "summary: Field required"),
        ('{"summary": "", "score": 3}', "summary"),
        ('{"summary": " ", "score": 3}', "summary"),
        ('{"summary": "a", "score": 6}', "score"),
        ('{"summary": "a", "score": 0}', "score"),
        ('{"summary": "a", "score": "4"}', "score"),
        ('{"summary": "a", "score": 4.5}', "score"),
        ('{"summary": "a", "score": true}', "score"),
        ('{"summary": ["a"], "score": 4}', "summary"),
        ('{"summary": "%s", "score": 4}' % ("a" * 301), "summary"),
        ('{"summary": "a", "score": 4', "no JSON object"),
        ('{"summary": "a", "score": }', "Invalid JSON"),
        ("{" * 10_000 + "}", "JSON"),
    ],
)
def test_an_answer_that_is_none(answer: str, problem: str) -> None:
    with pytest.raises(BadAnswerError, match=problem) as caught:
        parse_verdict(answer)
    assert "\n" not in str(caught.value)


def test_the_question_marks_what_is_active_by_the_neurons_largest_activation() -> None:
    text = question(SHOWN)
    assert "Text 1:  the<< heart>><< beats>> {x}\nActive: 'heart' 10, 'beats' 5\n" in text
    assert "Text 2:  a<< chest>> faint\nActive: 'chest' 2\n" in text  # 0.1 of 8 rounds to nothing
    assert all(f"{score}: {meaning}" in text for score, meaning in RUBRIC.items())
    assert "the 2 texts" in text


def test_other_contexts_are_another_question() -> None:
    other = NeuronContexts(7, SHOWN.contexts[:1], "texts")
    assert question_digest(other) != question_digest(SHOWN) == question_digest(NeuronContexts(8, SHOWN.contexts, "x"))
