"""The figures of a column against explicit computations, on a tiny GPT-2 and its SAE."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.build.pipeline import build
from core.catalog import find_setup
from core.errors import EditError, UsageError
from core.settings import GenerationSettings
from core.steering.code_edits import Swap
from core.steering.directions import mean_activation
from core.steering.edits import Add, Vector
from core.steering.metrics import perplexity
from core.steering.settings import SteeringSettings
from core.steering.ways import Way
from core.steering.workbench import WAY_NAMES, Proof, Workbench, across_layers, open_workbench
from core.store.reader import Store
from core.text.prompts import Topic, parse_topic, unaligned_prompts

TOPIC = Topic("law", "Law", ("A contract is void.", "The court rules."))
SETTINGS = GenerationSettings(max_new_tokens=5, seed=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def bench(root: Path, user_setups: Path) -> Iterator[Workbench]:
    setup = find_setup("gpt2-topk", user_setups)
    build(setup, root)
    with Store.open(root, setup.name) as store:
        yield open_workbench(setup, store)


@pytest.fixture(scope="module")
def earlier(root: Path, user_setups: Path, bench: Workbench) -> Iterator[Workbench]:
    """A setup of the same model at another layer."""
    setup = replace(find_setup("gpt2-jumprelu", user_setups), name="earlier", hook_name="blocks.0.hook_resid_post")
    build(setup, root)
    with Store.open(root, setup.name) as store:
        yield open_workbench(setup, store, beside=bench)


def test_column_measures_distance_from_the_nearest_topic_prompt(bench: Workbench) -> None:
    scored = bench.score(TOPIC)
    column = bench.column("none", None, ["The judge"], scored, SETTINGS)
    text = bench.embedding_model.embed([column.generations[0].text])[0].astype(np.float64)
    nearest = min(np.linalg.norm(text - row) for row in scored.embeddings.astype(np.float64))
    assert column.figures[0]["distance"] == pytest.approx(nearest, abs=1e-5)
    farther = (scored.scores.distances < nearest).mean() * 100
    assert column.figures[0]["topic_percentile"] == pytest.approx(farther, abs=1.1)


def test_column_perplexity_is_that_of_the_unsteered_model(bench: Workbench) -> None:
    scored = bench.score(TOPIC)
    edit = bench.edit("clamp", scored, SteeringSettings())
    column = bench.column("clamp", edit, ["The judge"], scored, SETTINGS)
    made = column.generations[0]
    ids = torch.tensor([made.prompt_tokens.ids + made.ids])
    losses = torch.nn.functional.cross_entropy(bench.model.model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    expected = losses[-len(made.ids) :].mean().exp()
    assert column.figures[0]["perplexity"] == pytest.approx(float(expected), rel=1e-4)


def test_column_without_topic_has_no_distance(bench: Workbench) -> None:
    column = bench.column("sae", bench.edit("sae", None, SteeringSettings()), ["The judge"], None, SETTINGS)
    assert np.isnan(column.figures[0]["distance"])
    assert np.isnan(column.figures[0]["contamination"])
    assert np.isfinite(column.figures[0]["perplexity"])


def test_sae_ignores_keep_error(bench: Workbench) -> None:
    settings = [SteeringSettings(keep_error=keep) for keep in (False, True)]
    texts = [bench.column("sae", bench.edit("sae", None, s), ["The judge"], None, SETTINGS) for s in settings]
    assert texts[0].generations[0].ids == texts[1].generations[0].ids


# ---- ways of steering ----


def test_way_joins_edits_in_their_order(bench: Workbench) -> None:
    scored = bench.score(TOPIC)
    settings = SteeringSettings(alphas=((3, 2.0), (7, -1.0)))
    way = bench.way("prompt+swap+add", scored, settings)
    assert [type(p.edit) for p in way.placed] == [Swap, Add]
    assert [p.positions for p in way.placed] == ["content", "all"]
    assert way.prefix == "Write about Law: "
    assert bench.way("none", None, settings) == Way("none")
    column = bench.columns([way], ["The judge"], scored, SETTINGS)[0]
    assert column.name == "prompt+swap+add"
    assert column.generations[0].edit == "swap+add"
    assert column.figures[0]["contamination"] > 0


def test_title_of_a_typed_topic_of_several_lines_is_its_first(bench: Workbench) -> None:
    scored = bench.score(parse_topic("heart surgery\nbypass"))
    assert bench.way("prompt", scored, SteeringSettings()).prefix == "Write about heart surgery: "


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("melt", "no edit 'melt'; there are none, sae, clamp, swap, weight, add, vector, prompt, alone or joined by +"),
        ("sae+", "no edit ''"),
        ("prompt", "'prompt' needs a topic: it writes 'Write about TOPIC: ' before the prompt"),
        ("vector", "'vector' needs a topic"),
        ("add", "'add' needs at least one neuron, with its alpha"),
    ],
)
def test_way_that_cannot_be_is_refused(name: str, words: str, bench: Workbench) -> None:
    with pytest.raises(EditError, match=words.replace("+", r"\+")):
        bench.way(name, None, SteeringSettings())


def test_add_without_a_neuron_adds_the_best_at_its_reference_value(bench: Workbench) -> None:
    scored = bench.score(TOPIC)
    best = int(scored.scores.ranked(1)["neuron"][0])
    edit = bench.edit("add", scored, SteeringSettings())
    assert isinstance(edit, Add)
    assert edit.alphas == ((best, float(bench.store.reference_max()[best])),)


def test_vector_is_the_difference_in_means(bench: Workbench) -> None:
    edit = bench.edit("vector", bench.score(TOPIC), SteeringSettings(vector_alpha=0.5))
    assert isinstance(edit, Vector)
    aligned, unaligned = (
        mean_activation(bench.model, bench.sae.hook_name, prompts) for prompts in (TOPIC.prompts, unaligned_prompts())
    )
    x = torch.ones(2, bench.sae.d_in)
    torch.testing.assert_close(edit.apply(x), x + 0.5 * (aligned - unaligned))


def test_all_ways_in_one_batch_write_what_each_writes_alone(bench: Workbench) -> None:
    scored, settings = bench.score(TOPIC), SteeringSettings(alphas=((3, 6.0),), multiplier=2.0)
    ways = [bench.way(name, scored, settings) for name in (*WAY_NAMES, "swap+add")]
    prompts = ["The judge", "Soup is made of"]
    for way, column in zip(ways, bench.columns(ways, prompts, scored, SETTINGS), strict=True):
        (alone,) = bench.columns([way], prompts, scored, SETTINGS)
        assert column.name == alone.name == way.name
        for made, expected in zip(column.generations, alone.generations, strict=True):
            assert (made.ids, made.positions_edited) == (expected.ids, expected.positions_edited)
        for figures, wanted in zip(column.figures, alone.figures, strict=True):
            assert figures == pytest.approx(wanted, rel=1e-3, abs=1e-5, nan_ok=True)


def test_figures_leave_the_prefix_out(bench: Workbench) -> None:
    scored = bench.score(TOPIC)
    (column,) = bench.columns([bench.way("prompt", scored, SteeringSettings())], ["The judge"], scored, SETTINGS)
    made = column.generations[0]
    assert bench.model.tokenizer.decode(made.prompt_tokens.ids).endswith("Write about Law: The judge")
    bare = bench.model.tokenise("The judge", generate=True)
    assert column.figures[0]["perplexity"] == pytest.approx(perplexity(bench.model, [bare], [made.ids])[0])
    assert column.figures[0]["perplexity"] != pytest.approx(
        perplexity(bench.model, [made.prompt_tokens], [made.ids])[0], rel=1e-3
    )
    assert np.isnan(column.figures[0]["contamination"])


def test_chat_is_measured_in_its_template(root: Path, user_setups: Path) -> None:
    setup = replace(find_setup("qwen2-topk", user_setups), name="instruct", chat=False, instruct=True)
    build(setup, root)
    with Store.open(root, setup.name) as store:
        bench = open_workbench(setup, store)
        scored = bench.score(TOPIC)
        way = bench.way("prompt", scored, SteeringSettings())
        (column,) = bench.columns([way], ["The judge"], scored, replace(SETTINGS, chat=True))
        bare = bench.model.tokenise("The judge", generate=True, chat=True)
        expected = perplexity(bench.model, [bare], [column.generations[0].ids])[0]
    assert column.figures[0]["perplexity"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "unsteered"),
    [
        ({}, "sae"),
        ({"keep_error": True}, "none"),
        ({"matched_count": True, "reach": 0.5, "positions": "generated"}, "sae"),
    ],
)
def test_zero_strength_is_proved_for_every_edit(options: dict, unsteered: str, bench: Workbench) -> None:
    settings, scored = SteeringSettings(**options), bench.score(TOPIC)
    proofs = dict(
        zip(
            WAY_NAMES,
            bench.prove([bench.way(name, scored, settings) for name in WAY_NAMES], "The judge", SETTINGS),
            strict=True,
        )
    )
    assert proofs["none"] is proofs["sae"] is proofs["prompt"] is None
    assert {proofs[name] for name in ("clamp", "swap", "weight")} == {Proof(unsteered, identical=True)}
    assert {proofs[name] for name in ("add", "vector")} == {Proof("none", identical=True)}


def test_proof_of_an_edit_that_is_not_neutral_fails(bench: Workbench) -> None:
    class Stubborn(Vector):
        def at_zero(self) -> Vector:
            return self

    edit = Stubborn(at=bench.sae.hook_name, direction=torch.linspace(-20, 20, bench.sae.d_in))
    assert bench.prove([Way.of(edit)], "The judge", SETTINGS) == [Proof("none", identical=False)]


# ---- several layers ----


def test_steering_through_several_setups_acts_at_every_layer(bench: Workbench, earlier: Workbench) -> None:
    assert earlier.model is bench.model
    scored = [each.score(TOPIC) for each in (bench, earlier)]
    way = across_layers([bench, earlier], "swap+add", scored, SteeringSettings())
    assert [p.edit.hook_name for p in way.placed] == [bench.sae.hook_name] * 2 + ["blocks.0.hook_resid_post"] * 2
    swap = way.placed[2].edit
    assert isinstance(swap, Swap)
    assert torch.equal(swap.score, torch.from_numpy(scored[1].scores.steering_vector()))
    both, here = bench.columns(
        [way, bench.way("swap+add", scored[0], SteeringSettings())], ["The"], scored[0], SETTINGS
    )
    assert both.generations[0].ids != here.generations[0].ids
    assert both.figures[0]["neurons_changed"] >= 0
    assert bench.prove([way], "The", SETTINGS) == [Proof("sae", identical=True)]


def test_setups_of_different_models_are_not_joined(bench: Workbench, user_setups: Path) -> None:
    with pytest.raises(UsageError, match=r"'qwen2-topk' is of .*qwen2, not of .*gpt2: name setups of one model"):
        open_workbench(find_setup("qwen2-topk", user_setups), bench.store, beside=bench)
