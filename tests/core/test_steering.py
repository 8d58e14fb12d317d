"""The proofs that always hold of every edit, against numpy and on real tiny checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from core.edits import (
    Edit,
    Reconstruct,
    Swap,
    Vector,
    Weight,
    add_neurons,
    clamp_best,
    describe_swap,
    make_edit,
)
from core.errors import EditError, NeuronRangeError
from core.language_model import LanguageModel
from core.metrics import contamination, contamination_share
from core.sparse_autoencoder import PreActivations, SparseAutoencoder
from tests.fixtures.edits import every_edit, some_scores

ARCHITECTURES = ("standard", "jumprelu", "topk", "abstopk", "gated")
NAMES = [f"{model}-{architecture}" for model in ("gpt2", "qwen2") for architecture in ARCHITECTURES]
D_IN, D_SAE, K, HOOK = 6, 14, 4, "blocks.1.hook_resid_post"
Array = np.ndarray


# ---- post-activations, against numpy ----


def tiny_sae(architecture: str) -> SparseAutoencoder:
    random = np.random.default_rng(0)

    def tensor(*shape: int) -> Tensor:
        return torch.from_numpy(random.normal(size=shape).astype(np.float32))

    return SparseAutoencoder(
        name=architecture,
        architecture=architecture,
        hook_name=HOOK,
        W_enc=tensor(D_IN, D_SAE),
        W_dec=tensor(D_SAE, D_IN),
        b_dec=tensor(D_IN),
        b_enc=tensor(D_SAE),
        W_mag=tensor(D_IN, D_SAE),
        b_mag=tensor(D_SAE),
        threshold=tensor(D_SAE).abs() / 2,
        k=K,
    )


TINY = {architecture: tiny_sae(architecture) for architecture in ARCHITECTURES}


def sigma(sae: SparseAutoencoder, gamma: Array, gate: Array) -> Array:
    """The activation function, written again."""
    match sae.architecture:
        case "topk":
            kept = (np.argsort(np.argsort(-gamma)) < K) & (gamma > 0)
        case "abstopk":
            kept = np.argsort(np.argsort(-np.abs(gamma))) < K
        case "jumprelu":
            assert sae.threshold is not None
            kept = gamma > sae.threshold.numpy()
        case "gated":
            kept = (gate > 0) & (gamma > 0)
        case _:
            kept = gamma > 0
    return np.where(kept, gamma, 0)


def random_case(seed: int, n_tokens: int = 5) -> tuple[Array, Array, Array]:
    """gamma, gate and scores; some scores are 0 and some 1."""
    random = np.random.default_rng(seed)
    gamma, gate = random.normal(size=(2, n_tokens, D_SAE)).astype(np.float32)
    score = random.choice([0, 1, 2, 2, 2], D_SAE) * random.uniform(0.3, 0.5, D_SAE)
    return gamma, gate, np.where(score > 0.9, 1, score).astype(np.float32)


def pre_activations(sae: SparseAutoencoder, gamma: Array, gate: Array | None = None) -> PreActivations:
    gate_tensor = torch.from_numpy(gate) if sae.architecture == "gated" and gate is not None else None
    return PreActivations(torch.from_numpy(gamma), gate_tensor)


def edited(edit: Edit, pre: PreActivations) -> Array:
    return edit.edited_code(pre, edit.sae.select(pre)).dense(D_SAE).numpy()


def scores(values: Array) -> Tensor:
    return torch.from_numpy(values)


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


# sizes apart from 0 stay in a range where float32 keeps seven digits of every product
sizes = st.one_of(st.just(0.0), st.floats(2**-6, 8, width=32), st.floats(-8, -(2**-6), width=32))
gammas = arrays(np.float32, (3, D_SAE), elements=sizes)
score_vectors = arrays(
    np.float32, D_SAE, elements=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(2**-6, 1, width=32))
)


@given(gamma=gammas, score=score_vectors)
@settings(max_examples=120)
def test_topk_swap_never_contaminates_more_than_sae(gamma: Array, score: Array) -> None:
    sae, weights = TINY["topk"], scores(score)
    pre = pre_activations(sae, gamma)
    a = sae.select(pre)
    swapped = Swap(sae=sae, score=weights).edited_code(pre, a)
    assert (contamination(swapped, weights) <= contamination(a, weights) + 1e-5).all()
    assert (contamination_share(swapped, weights) <= contamination_share(a, weights) + 1e-6).all()


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
@given(gamma=gammas, gate=gammas, score=score_vectors)
@settings(max_examples=40)
def test_matched_count_keeps_the_largest_as_many_as_sigma_did(
    architecture: str, gamma: Array, gate: Array, score: Array
) -> None:
    sae = TINY[architecture]
    pre = pre_activations(sae, gamma, gate)
    swapped = edited(Swap(sae=sae, score=scores(score), matched_count=True), pre)
    weighted, kept = gamma * score, swapped != 0
    candidates = (weighted > 0).sum(-1)
    np.testing.assert_array_equal(kept.sum(-1), np.minimum((sigma(sae, gamma, gate) != 0).sum(-1), candidates))
    np.testing.assert_array_equal(swapped, np.where(kept, gamma, 0))
    smallest_kept = np.where(kept, weighted, np.inf).min(-1)
    largest_dropped = np.where(kept, -np.inf, weighted).max(-1)
    assert ((smallest_kept > 0) & ((smallest_kept >= largest_dropped) | ~kept.any(-1))).all()


def test_matched_count_admits_no_negative_neuron() -> None:
    gamma = np.full((1, D_SAE), -1, np.float32)
    gamma[0, 5] = 2  # AbsTopK keeps three negative ones beside it
    swapped = edited(
        Swap(sae=TINY["abstopk"], score=torch.ones(D_SAE), matched_count=True), pre_activations(TINY["abstopk"], gamma)
    )
    assert swapped.nonzero()[1].tolist() == [5]


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
        name: model.activations(model.pad([model.tokenise(text)]), HOOK)[0]
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
    for edit_name in ("swap", "weight"):
        edit = every_edit(sae, ones)[edit_name]
        assert torch.equal(edit.apply(x), Reconstruct(sae=sae).apply(x))
        assert torch.equal(replace(edit, keep_error=True).apply(x), x)
    nothing = every_edit(sae, some_scores(sae), n=0)["clamp"]
    assert torch.equal(nothing.apply(x), Reconstruct(sae=sae).apply(x))
    assert torch.equal(replace(nothing, keep_error=True).apply(x), x)


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
            assert torch.equal(outcome.a.dense(sae.d_sae), sae.activate(pre))
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
        (lambda sae, ones: make_edit("zap", sae), "no edit 'zap'; there are none, sae, clamp, swap, weight"),
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


def test_describe_swap_says_what_it_can_change() -> None:
    assert describe_swap(TINY["topk"]) == "topk SAE: swap chooses all 4 active neurons of a token anew by score."
    assert "swap can only drop neurons, never admit one" in describe_swap(TINY["jumprelu"])
    score = np.ones(D_SAE, np.float32)
    score[:3] = 0
    assert "drops only those of score 0 (3 of 14 have)" in describe_swap(TINY["standard"], score)
    assert "as many neurons a token as the gated SAE did" in describe_swap(TINY["gated"], matched_count=True)


# ---- added directions ----


def test_add_is_the_decoder_rows_by_their_strengths() -> None:
    sae, x = TINY["jumprelu"], torch.randn(3, D_IN, generator=torch.Generator().manual_seed(1))
    rows = sae.W_dec.numpy()
    edited = add_neurons(sae, {3: 2.0, 7: -0.5}).apply(x)
    np.testing.assert_allclose(edited.numpy(), x.numpy() + 2.0 * rows[3] - 0.5 * rows[7], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_add_and_vector_at_zero_change_nothing(name: str, saes: Mapping[str, SparseAutoencoder]) -> None:
    sae, x = saes[name], torch.randn(4, saes[name].d_in, generator=torch.Generator().manual_seed(2))
    for edit in (
        add_neurons(sae, {1: 0.0, 2: 0.0}),
        Vector(
            at=sae.hook_name, direction=torch.randn(sae.d_in, generator=torch.Generator().manual_seed(3)), alpha=0.0
        ),
    ):
        assert torch.equal(edit.apply(x), x)


@pytest.mark.parametrize(
    ("alphas", "error"),
    [({D_SAE: 1.0}, NeuronRangeError), ({-1: 1.0}, NeuronRangeError), ({0: float("nan")}, EditError)],
)
def test_add_refuses_what_is_no_neuron_or_no_number(alphas: dict[int, float], error: type[Exception]) -> None:
    with pytest.raises(error):
        add_neurons(TINY["topk"], alphas)
