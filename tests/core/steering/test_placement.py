"""The proofs that always hold of every edit, against numpy and on real tiny checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.errors import EditError, NeuronRangeError
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder
from core.steering.code_edits import Reconstruct, Swap, Weight, clamp_best
from core.steering.edits import add_neurons, make_edit
from core.steering.metrics import contamination, contamination_share
from tests.fixtures.autoencoders import HOOK_NAME
from tests.fixtures.edits import added_directions, every_edit, some_scores
from tests.fixtures.tiny_saes import (
    ARCHITECTURES,
    D_IN,
    D_SAE,
    TINY,
    Array,
    edited,
    gammas,
    pre_activations,
    random_case,
    score_vectors,
    scores,
    sigma,
)

NAMES = [f"{model}-{architecture}" for model in ("gpt2", "qwen2") for architecture in ARCHITECTURES]


# ---- post-activations, against numpy ----


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=40)
def test_swap_and_weight_equal_eq_3_in_numpy(architecture: str, seed: int) -> None:
    sae = TINY[architecture]
    gamma, gate, score = random_case(seed)
    pre = pre_activations(sae, gamma, gate)
    np.testing.assert_array_equal(sae.activate(pre).numpy(), sigma(sae, gamma, gate))
    weighted = sigma(sae, gamma * score, gate * score)
    np.testing.assert_array_equal(edited(Swap(sae=sae, score=scores(score)), pre), np.where(weighted != 0, gamma, 0))
    np.testing.assert_array_equal(edited(Weight(sae=sae, score=scores(score)), pre), weighted)


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 3.5])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_sharper_swap_chooses_by_a_power_of_the_score(architecture: str, sharpness: float, seed: int) -> None:
    sae = TINY[architecture]
    gamma, gate, score = random_case(seed)
    pre = pre_activations(sae, gamma, gate)
    power = (scores(score) ** sharpness).numpy()
    chosen = sigma(sae, gamma * power, gate * power) != 0
    swap = Swap(sae=sae, score=scores(score), sharpness=sharpness)
    np.testing.assert_array_equal(edited(swap, pre), np.where(chosen, gamma, 0))
    np.testing.assert_array_equal(edited(swap.at_zero(), pre), sae.activate(pre).numpy())


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.5, 4.0])
@given(gamma=gammas, score=score_vectors)
@settings(max_examples=120)
def test_topk_swap_never_contaminates_more_than_sae(gamma: Array, score: Array, sharpness: float) -> None:
    sae, weights = TINY["topk"], scores(score)
    pre = pre_activations(sae, gamma)
    a = sae.select(pre)
    swapped = Swap(sae=sae, score=weights, sharpness=sharpness).edited_code(pre, a)
    assert (contamination(swapped, weights) <= contamination(a, weights) + 1e-5).all()
    if sharpness <= 1:
        assert (contamination_share(swapped, weights) <= contamination_share(a, weights) + 1e-6).all()


def test_sharper_swap_may_raise_the_share_of_contamination() -> None:
    """By hand: score^3 keeps a weak neuron of score 1 in place of one of .5, and the strongest, of .3, weighs more."""
    sae = replace(TINY["topk"], k=2)
    gamma, score = np.zeros((1, D_SAE), np.float32), np.zeros(D_SAE, np.float32)
    gamma[0, :3], score[:3] = (100, 10, 1.3), (0.3, 0.5, 1.0)
    pre, weights = pre_activations(sae, gamma), scores(score)
    a = sae.select(pre)
    swapped = Swap(sae=sae, score=weights, sharpness=3).edited_code(pre, a)
    assert sorted(swapped.neurons[0].tolist()) == [0, 2]
    assert float(contamination(a, weights)[0]) == pytest.approx(75)  # 100 x .7 + 10 x .5
    assert float(contamination(swapped, weights)[0]) == pytest.approx(70)  # 100 x .7 + 1.3 x 0
    assert float(contamination_share(a, weights)[0]) == pytest.approx(75 / 110)
    assert float(contamination_share(swapped, weights)[0]) == pytest.approx(70 / 101.3)


@given(gamma=gammas, score=score_vectors)
@settings(max_examples=50)
def test_jumprelu_swap_admits_no_neuron(gamma: Array, score: Array) -> None:
    sae = TINY["jumprelu"]
    pre = pre_activations(sae, gamma)
    swapped, a = edited(Swap(sae=sae, score=scores(score)), pre), sae.activate(pre).numpy()
    assert ((swapped == a) | (swapped == 0)).all()


@pytest.mark.parametrize("architecture", ["standard", "gated"])
@given(gamma=gammas, gate=gammas, score=score_vectors)
@settings(max_examples=50)
def test_relu_and_gated_swap_drops_exactly_the_neurons_of_score_0(
    architecture: str, gamma: Array, gate: Array, score: Array
) -> None:
    sae = TINY[architecture]
    pre = pre_activations(sae, gamma, gate)
    swapped, a = edited(Swap(sae=sae, score=scores(score)), pre), sae.activate(pre).numpy()
    np.testing.assert_array_equal(swapped, np.where(score == 0, 0, a))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(seed=st.integers(0, 10_000), n=st.integers(0, D_SAE), multiplier=st.sampled_from([-2.0, 0.0, 0.5, 10.0]))
@settings(max_examples=30)
def test_clamp_sets_exactly_the_best_neurons(architecture: str, seed: int, n: int, multiplier: float) -> None:
    sae = TINY[architecture]
    gamma, gate, score = random_case(seed)
    reference = np.random.default_rng(seed).uniform(1, 5, D_SAE).astype(np.float32)
    pre = pre_activations(sae, gamma, gate)
    best = sorted(range(D_SAE), key=lambda i: (-score[i], i))[:n]  # of equal scores the lower number
    for current in (False, True):
        edit = make_edit(
            "clamp", sae, score=score, reference_max=reference, n=n, multiplier=multiplier, current=current
        )
        assert edit is not None
        expected = sigma(sae, gamma, gate)
        expected[:, best] = np.float32(multiplier) * (expected[:, best] if current else reference[best])
        np.testing.assert_allclose(edited(edit, pre), expected, rtol=1e-6)


# ---- on real checkpoints ----


@pytest.fixture(scope="module")
def streams(gpt2: LanguageModel, qwen2: LanguageModel) -> dict[str, Tensor]:
    """Some activations [token d_in] of each model at the hook point."""
    text = "The surgeon mends a heart while rain falls on the roof of the old hospital."
    return {
        name: model.activations(model.pad([model.tokenise(text)]), HOOK_NAME)[0]
        for name, model in (("gpt2", gpt2), ("qwen2", qwen2))
    }


@pytest.mark.parametrize("name", NAMES)
def test_sae_edit_is_the_reconstruction(
    name: str, saes: Mapping[str, SparseAutoencoder], streams: dict[str, Tensor]
) -> None:
    sae, x = saes[name], streams[name.split("-")[0]]
    pre = sae.pre_activations(x)
    expected = sae.decode(sae.activate(pre), pre)
    torch.testing.assert_close(Reconstruct(sae=sae).apply(x), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, x, atol=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_edits_that_change_no_neuron_equal_sae_and_none_exactly(
    name: str, saes: Mapping[str, SparseAutoencoder], streams: dict[str, Tensor]
) -> None:
    sae, x = saes[name], streams[name.split("-")[0]]
    ones = torch.ones(sae.d_sae)
    for edit_name in ("swap", "matched", "weight"):
        edit = every_edit(sae, ones)[edit_name]
        assert torch.equal(edit.apply(x), Reconstruct(sae=sae).apply(x)), edit_name
        assert torch.equal(replace(edit, keep_error=True).apply(x), x), edit_name
    nothing = every_edit(sae, some_scores(sae), n=0)["clamp"]
    assert torch.equal(nothing.apply(x), Reconstruct(sae=sae).apply(x))
    assert torch.equal(replace(nothing, keep_error=True).apply(x), x)


@pytest.mark.parametrize("keep_error", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_edit_at_zero_strength_is_what_it_says(
    name: str, keep_error: bool, saes: Mapping[str, SparseAutoencoder], streams: dict[str, Tensor]
) -> None:
    sae, x = saes[name], streams[name.split("-")[0]]
    edits = every_edit(sae, some_scores(sae), keep_error=keep_error) | added_directions(sae)
    assert edits.pop("sae").at_zero() is None
    for edit_name, edit in edits.items():
        zero, plain = edit.at_zero(), edit.unsteered()
        assert zero is not None
        assert isinstance(plain, Reconstruct) == (not keep_error and edit_name not in ("add", "vector"))
        assert torch.equal(zero.apply(x), x if plain is None else plain.apply(x)), edit_name
        assert not torch.equal(zero.apply(x), edit.apply(x)) or sae.architecture != "topk", edit_name


@pytest.mark.parametrize("name", NAMES)
def test_edited_stream_decodes_the_edited_neurons(
    name: str, saes: Mapping[str, SparseAutoencoder], streams: dict[str, Tensor]
) -> None:
    sae, x = saes[name], streams[name.split("-")[0]]
    pre = sae.pre_activations(x)
    x_sae = sae.decode(sae.activate(pre), pre)
    for keep_error in (False, True):
        for edit_name, edit in every_edit(sae, some_scores(sae), keep_error=keep_error).items():
            outcome = edit.explain(x)
            assert torch.equal(outcome.edited, edit.apply(x)), edit_name
            assert torch.equal(outcome.x, x)
            torch.testing.assert_close(outcome.a.dense(sae.d_sae), sae.activate(pre))  # a few tokens: by a first pass
            torch.testing.assert_close(outcome.reconstructed, x_sae, atol=1e-5, rtol=1e-5)
            expected = sae.decode(outcome.edited_a.dense(sae.d_sae), pre)
            if keep_error and edit_name != "sae":
                expected = x + expected - x_sae
            torch.testing.assert_close(outcome.edited, expected, atol=1e-4, rtol=1e-4)


def test_swap_of_scores_0_leaves_the_decoder_bias(
    saes: Mapping[str, SparseAutoencoder], streams: dict[str, Tensor]
) -> None:
    sae, x = saes["gpt2-topk"], streams["gpt2"]
    edit = Swap(sae=sae, score=torch.zeros(sae.d_sae))
    assert torch.equal(edit.apply(x), sae.b_dec.expand_as(x))


def test_half_precision_stream_stays_half_precision(
    saes: Mapping[str, SparseAutoencoder], streams: dict[str, Tensor]
) -> None:
    x = streams["gpt2"].bfloat16()
    for edit in every_edit(saes["gpt2-topk"], some_scores(saes["gpt2-topk"]), keep_error=True).values():
        assert edit.apply(x).dtype == torch.bfloat16


# ---- making edits ----


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda sae, ones: make_edit("zap", sae), "no edit 'zap'; there are none, sae, clamp, swap, weight, add"),
        (lambda sae, ones: make_edit("swap", sae), "'swap' needs a topic: its scores choose the neurons"),
        (lambda sae, ones: make_edit("weight", sae), "'weight' needs a topic"),
        (lambda sae, ones: make_edit("clamp", sae), "'clamp' needs a topic"),
        (lambda sae, ones: make_edit("clamp", sae, score=ones), "'clamp' needs the neurons' largest activations"),
        (lambda sae, ones: make_edit("swap", sae, score=ones[:3]), "values for 3 neurons do not fit an SAE of 14"),
        (lambda sae, ones: make_edit("swap", sae, score=np.float32(1)), "values for 1 neurons do not fit an SAE of 14"),
        (lambda sae, ones: make_edit("swap", sae, score=ones * np.nan), "every neuron needs a finite value"),
        (
            lambda sae, ones: make_edit("clamp", sae, score=ones, reference_max=ones, n=-1),
            "clamp takes n >= 0 neurons and a finite multiplier, not -1 and 10.0",
        ),
        (
            lambda sae, ones: make_edit("clamp", sae, score=ones, reference_max=ones, multiplier=float("nan")),
            "a finite multiplier, not 5 and nan",
        ),
        (lambda sae, ones: make_edit("add", sae), "'add' needs at least one neuron, with its alpha"),
        (lambda sae, ones: make_edit("add", sae, alphas={0: np.inf}), "alpha is a finite number, not inf"),
        (lambda sae, ones: make_edit("vector", sae), "'vector' needs a topic: its prompts give the direction"),
        (lambda sae, ones: make_edit("vector", sae, direction=ones[:3]), "a direction is 6 finite numbers"),
        (lambda sae, ones: make_edit("vector", sae, direction=ones[:6] * np.nan), "a direction is 6 finite numbers"),
        (lambda sae, ones: make_edit("vector", sae, direction=ones[:6], alpha=np.nan), "alpha is a finite number"),
        (lambda sae, ones: Reconstruct(sae=sae, keep_error=True), "'sae' is the full replacement"),
    ],
)
def test_edit_that_cannot_be_is_refused(call: Callable[[SparseAutoencoder, Array], Any], message: str) -> None:
    with pytest.raises(EditError, match=message):
        call(TINY["topk"], np.ones(D_SAE, np.float32))


def test_clamp_of_more_neurons_than_there_are_is_refused() -> None:
    ones = torch.ones(D_SAE)
    with pytest.raises(NeuronRangeError, match="neuron 15 is out of range: this SAE has neurons 0 to 13"):
        clamp_best(TINY["topk"], ones, ones, 15, 10.0, current=False, keep_error=False)


def test_make_edit_of_none_is_no_edit_and_sae_never_keeps_the_error() -> None:
    assert make_edit("none", TINY["topk"]) is None
    edit = make_edit("sae", TINY["topk"], keep_error=True)
    assert isinstance(edit, Reconstruct)
    assert not edit.keep_error


def test_edits_say_what_they_do() -> None:
    sae, ones = TINY["topk"], np.ones(D_SAE, np.float32)
    clamp = {"score": ones, "reference_max": 2 * ones, "n": 2}
    edits = [
        make_edit("sae", sae),
        make_edit("clamp", sae, **clamp),
        make_edit("clamp", sae, **clamp, current=True, multiplier=3),
        make_edit("clamp", sae, **{**clamp, "n": 0}, current=True),
        make_edit("add", sae, alphas={3: 40, 7: -0.5}),
        make_edit("vector", sae, direction=np.array([3, 4, 0, 0, 0, 0]), alpha=0.5),
    ]
    assert [edit.note() for edit in edits if edit is not None] == [
        "",
        "Clamp forces neuron 0 to 20, neuron 1 to 20.",
        "Clamp forces neuron 0, neuron 1 to 3 times their own activation on the token.",
        "Clamp forces no neuron.",
        "Add adds decoder rows: 40 times that of neuron 3, -0.5 times that of neuron 7.",
        "Vector adds 0.5 times the difference in means, which has length 5.",
    ]


# ---- added directions ----


def test_add_is_the_decoder_rows_by_their_strengths() -> None:
    sae, x = TINY["jumprelu"], torch.randn(3, D_IN, generator=torch.Generator().manual_seed(1))
    rows = sae.W_dec.numpy()
    edited = add_neurons(sae, {3: 2.0, 7: -0.5}).apply(x)
    np.testing.assert_allclose(edited.numpy(), x.numpy() + 2.0 * rows[3] - 0.5 * rows[7], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("alphas", "error"),
    [({D_SAE: 1.0}, NeuronRangeError), ({-1: 1.0}, NeuronRangeError), ({0: float("nan")}, EditError)],
)
def test_add_refuses_what_is_no_neuron_or_no_number(alphas: dict[int, float], error: type[Exception]) -> None:
    with pytest.raises(error):
        add_neurons(TINY["topk"], alphas)
