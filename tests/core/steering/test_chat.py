"""A chat in several columns: whole conversations through the template, own history per column, edits on their rows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.build.pipeline import build
from core.catalog import find_setup
from core.errors import EditError, UsageError
from core.scoring.scorer import ScoredTopic
from core.settings import GenerationSettings, ScoreSettings
from core.steering.chat import Chat
from core.steering.generation import Generator
from core.steering.settings import SteeringSettings
from core.steering.ways import Way
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.text.prompts import parse_topic

SETTINGS = GenerationSettings(max_new_tokens=6, seed=2)
STRONG = SteeringSettings(alphas=((3, 30.0),))


@pytest.fixture(scope="module")
def chat_bench(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Iterator[Workbench]:
    setup, root = find_setup("qwen2-jumprelu", user_setups), tmp_path_factory.mktemp("chat")
    build(setup, root)
    with Store.open(root, setup.name) as store:
        yield open_workbench(setup, store)


@pytest.fixture(scope="module")
def scored(chat_bench: Workbench) -> ScoredTopic:
    return chat_bench.score(parse_topic("heart surgery"), ScoreSettings(min_prompts=5))


def ways(bench: Workbench, scored: ScoredTopic) -> list[Way]:
    return [bench.way(name, scored, STRONG) for name in ("none", "add")]


def spoken(bench: Workbench, scored: ScoredTopic, *words: str, system: str = "") -> Chat:
    chat = Chat()
    for number, said in enumerate(words):
        chat.say(said, seed=number)
        chat.reply(bench, ways(bench, scored), scored, SETTINGS, system).finish()
    return chat


def test_each_column_reads_its_own_history_through_the_template(chat_bench: Workbench, scored: ScoredTopic) -> None:
    chat = spoken(chat_bench, scored, "Good morning", "And what then?", system="Be brief.")
    first, second = chat.turns
    assert first.answers[0].ids != first.answers[1].ids
    for column in (0, 1):
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Good morning"},
            {"role": "assistant", "content": first.answers[column].text},
            {"role": "user", "content": "And what then?"},
        ]
        read = second.answers[column].prompt_tokens
        assert read is not None
        assert read == chat_bench.model.tokenise_chat(messages, generate=True)
        assert {"user", "assistant"} <= set(read.roles)


def test_answers_are_those_of_a_column_alone(chat_bench: Workbench, scored: ScoredTopic) -> None:
    chat = spoken(chat_bench, scored, "Good morning", "And what then?")
    for column, way in enumerate(ways(chat_bench, scored)):
        messages = chat.conversation(column)[:-1]
        alone = chat_bench.reply([way], [messages], scored, GenerationSettings(max_new_tokens=6, seed=1)).finish()
        assert alone[0].ids == chat.turns[1].answers[column].ids
    assert chat.turns[1].answers[0].positions_edited == 0
    assert chat.turns[1].answers[1].positions_edited == chat.turns[1].answers[1].positions_run


def test_figures_of_an_answer_are_conditioned_on_its_conversation(chat_bench: Workbench, scored: ScoredTopic) -> None:
    chat = spoken(chat_bench, scored, "Good morning", "And what then?")
    answer = chat.turns[1].answers[0]
    (figures, _) = chat_bench.figures(chat.turns[1].answers, scored)
    short = Generator(chat_bench.model, ["And what then?"], [], GenerationSettings(max_new_tokens=6, chat=True))
    (alone,) = short.generations
    alone.ids, alone.text = answer.ids, answer.text
    assert figures["perplexity"] != chat_bench.figures([alone], scored)[0]["perplexity"]


def test_turn_asked_again_has_another_seed_and_what_followed_goes(chat_bench: Workbench, scored: ScoredTopic) -> None:
    chat = spoken(chat_bench, scored, "Good morning", "And what then?")
    again = chat.again(0)
    assert [turn.user for turn in chat.turns] == ["Good morning"]
    assert (again.seed, again.answers) == (1, [])
    chat.reply(chat_bench, ways(chat_bench, scored), scored, SETTINGS).finish()
    assert [len(answer.ids) for answer in again.answers] == [6, 6]


def test_empty_answer_is_no_obstacle(chat_bench: Workbench, scored: ScoredTopic) -> None:
    chat = spoken(chat_bench, scored, "Good morning")
    chat.turns[0].answers[0].text = ""
    chat.say("And what then?", 1)
    made = chat.reply(chat_bench, ways(chat_bench, scored), scored, SETTINGS).finish()
    assert [len(answer.ids) for answer in made] == [6, 6]


def test_what_cannot_be_answered_says_why(chat_bench: Workbench, scored: ScoredTopic) -> None:
    with pytest.raises(UsageError, match="the message is empty"):
        Chat().say("  ", 0)
    with pytest.raises(UsageError, match="ends with a message of the user"):
        chat_bench.reply(ways(chat_bench, scored)[:1], [[{"role": "system", "content": "x"}]], scored, SETTINGS)
    prompted, said = chat_bench.way("prompt", scored, STRONG), [{"role": "user", "content": "x"}]
    with pytest.raises(EditError, match="'prompt' writes before a prompt"):
        chat_bench.reply([prompted], [said], scored, SETTINGS)


def test_neurons_of_unedited_text_are_told(chat_bench: Workbench, scored: ScoredTopic) -> None:
    chat = spoken(chat_bench, scored, "Good morning")
    own, steered = chat.turns[0].answers
    assert all(figures.own_share is not None and 0 <= figures.own_share <= 1 for figures in own.figures)
    assert all(figures.contamination is None and figures.neurons_changed is None for figures in own.figures)
    assert all(figures.own_share is None for figures in steered.figures)
