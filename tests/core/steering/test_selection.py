"""What matched count keeps, what is within reach, and what people are told, against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.models.sparse_autoencoder import SparseAutoencoder
from core.steering.code_edits import Swap
from core.steering.edits import make_edit
from core.steering.selection import Reach, describe_swap
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


def margins(sae: SparseAutoencoder, gamma: Array, gate: Array, score: Array) -> Array:
    """What matched count orders by, written again: gamma * score over what sigma asks of each neuron."""
    match sae.architecture:
        case "jumprelu":
            assert sae.threshold is not None
            return gamma * score - sae.threshold.numpy()
        case "gated":
            assert sae.W_mag is not None
            scale = np.linalg.norm(sae.W_mag.numpy(), axis=0) / np.linalg.norm(sae.W_enc.numpy(), axis=0)
            return gamma * score - (gamma - scale * gate)
        case "abstopk":
            return np.abs(gamma * score)
        case _:
            return gamma * score


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(gamma=gammas, gate=gammas, score=score_vectors)
@settings(max_examples=40)
def test_matched_count_keeps_the_best_as_many_as_sigma_did(
    architecture: str, gamma: Array, gate: Array, score: Array
) -> None:
    sae = TINY[architecture]
    pre = pre_activations(sae, gamma, gate)
    swapped = edited(Swap(sae=sae, score=scores(score), matched_count=True), pre)
    margin, kept = margins(sae, gamma, gate, score), swapped != 0
    able = gamma * score != 0 if architecture == "abstopk" else gamma * score > 0
    np.testing.assert_array_equal(kept.sum(-1), np.minimum((sigma(sae, gamma, gate) != 0).sum(-1), able.sum(-1)))
    np.testing.assert_array_equal(swapped, np.where(kept, gamma, 0))
    assert (able | ~kept).all()
    worst_kept = np.where(kept, margin, np.inf).min(-1)
    best_dropped = np.where(able & ~kept, margin, -np.inf).max(-1)
    assert (worst_kept >= best_dropped - 1e-4).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(gamma=gammas, gate=gammas)
@settings(max_examples=40)
def test_matched_count_with_every_score_1_keeps_what_sigma_kept(architecture: str, gamma: Array, gate: Array) -> None:
    sae = TINY[architecture]
    pre = pre_activations(sae, gamma, gate)
    swapped = edited(Swap(sae=sae, score=torch.ones(D_SAE), matched_count=True), pre)
    np.testing.assert_array_equal(swapped, sae.activate(pre).numpy())


@given(gamma=gammas, score=score_vectors)
@settings(max_examples=50)
def test_matched_count_keeps_all_that_swap_keeps_on_jumprelu(gamma: Array, score: Array) -> None:
    sae = TINY["jumprelu"]
    pre = pre_activations(sae, gamma)
    plain, matched = (edited(Swap(sae=sae, score=scores(score), matched_count=m), pre) for m in (False, True))
    assert ((plain == 0) | (matched == plain)).all()


@pytest.mark.parametrize("architecture", ["standard", "topk", "abstopk"])
def test_matched_count_is_swap_where_no_neuron_has_a_threshold_of_its_own(architecture: str) -> None:
    gamma, gate, score = random_case(3)
    pre = pre_activations(TINY[architecture], gamma, gate)
    plain, matched = (edited(Swap(sae=TINY[architecture], score=scores(score), matched_count=m), pre) for m in (0, 1))
    np.testing.assert_array_equal(plain, matched)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(seed=st.integers(0, 10_000), least=st.sampled_from([0.0, 0.3, 0.45, 1.0]))
@settings(max_examples=40)
def test_reach_is_the_best_score_among_the_2k_largest(architecture: str, seed: int, least: float) -> None:
    random = np.random.default_rng(seed)
    sae, x = TINY[architecture], torch.from_numpy(random.normal(size=(6, D_IN)).astype(np.float32))
    score = random_case(seed)[2]
    pre = sae.pre_activations(x)
    active = (sae.activate(pre) != 0).sum(-1)
    for token, holds in enumerate(Reach(scores(score), least).holds(sae, x)):
        gamma = pre.gamma[token].numpy()
        size = np.abs(gamma) if architecture == "abstopk" else gamma
        near = [i for i in np.argsort(-size)[: 2 * int(active[token])] if size[i] > 0]
        assert bool(holds) == any(score[i] > least for i in near)


@pytest.mark.parametrize(
    ("architecture", "matched_count", "words"),
    [
        ("topk", False, "TopK SAE: swap chooses all 4 active neurons of each token by pre-activation x score."),
        ("topk", True, "matched count changes nothing"),
        ("jumprelu", False, "swap can only drop neurons, never activate one; with matched count it keeps as many"),
        ("jumprelu", True, "JumpReLU SAE, matched count: swap keeps as many neurons on each token as the SAE did"),
        ("standard", False, "only drops those of score 0 (3 of 14)"),
        ("standard", True, "Matched count changes nothing: every neuron above 0 is active already"),
        ("gated", False, "only drops those of score 0 (3 of 14). With matched count it keeps as many"),
        ("gated", True, "Gated SAE, matched count: swap keeps as many neurons on each token as the SAE did"),
    ],
)
def test_swap_says_what_it_can_change(architecture: str, matched_count: bool, words: str) -> None:
    score = np.ones(D_SAE, np.float32)
    score[:3] = 0
    edit = make_edit("swap", TINY[architecture], score=score, matched_count=matched_count)
    assert edit is not None
    assert words in edit.note()
    assert "have)" not in describe_swap(TINY[architecture], matched_count=matched_count)
