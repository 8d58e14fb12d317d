import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.models.codes import Formed
from core.models.first_pass import FirstPass, Screened, runs_here

D_IN, D_SAE, K = 24, 400, 4

if not runs_here():
    pytest.skip("the first pass needs an x86 processor", allow_module_level=True)


def weights(seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(D_IN, D_SAE, generator=random), torch.randn(D_SAE, generator=random)


def tokens(seed: int, n: int = 3) -> Tensor:
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed))


def screened(W_enc: Tensor, b_enc: Tensor, x: Tensor) -> Screened:
    first = FirstPass.of(W_enc, b_enc)
    assert first is not None
    return Screened(first, x, first.rough(x))


def formed(W_enc: Tensor, b_enc: Tensor, x: Tensor) -> Formed:
    return Formed(x @ W_enc + b_enc)


def chosen(pre: Formed | Screened, k: int, *, magnitude: bool = False) -> list[dict[int, float]]:
    """Of each token, the chosen neurons with their gamma, to six digits."""
    neurons = pre.largest(k, magnitude=magnitude)
    pairs = zip(neurons.tolist(), pre.at(neurons).tolist(), strict=True)
    return [{n: pytest.approx(v, rel=1e-5, abs=1e-5) for n, v in zip(*pair, strict=True)} for pair in pairs]


@given(seed=st.integers(0, 2**31), exponent=st.integers(-6, 4), size=st.integers(-3, 3))
def test_rough_values_are_within_the_bound_of_the_exact_ones(seed: int, exponent: int, size: int) -> None:
    W_enc, b_enc = weights(seed, 10.0**exponent)  # float16 has few digits below 6e-5, and ends at 65,504
    x = 10.0**size * tokens(seed + 1)
    pre = screened(W_enc, b_enc, x)
    exact = x.double() @ W_enc.double() + b_enc.double()
    assert ((pre.rough - exact).abs().amax(-1) <= pre._off()).all()


@given(seed=st.integers(0, 2**31), k=st.sampled_from([1, K, 100, D_SAE]), magnitude=st.booleans())
def test_largest_is_that_of_the_whole_product(seed: int, k: int, magnitude: bool) -> None:
    W_enc, b_enc = weights(seed)
    x = tokens(seed + 1)
    score = torch.rand(D_SAE, generator=torch.Generator().manual_seed(seed + 2)) ** 2
    one, other = screened(W_enc, b_enc, x), formed(W_enc, b_enc, x)
    assert chosen(one, k, magnitude=magnitude) == chosen(other, k, magnitude=magnitude)
    assert chosen(one.weighted(score), k, magnitude=magnitude) == chosen(other.weighted(score), k, magnitude=magnitude)


def test_largest_weighted_twice_is_that_of_both_weights() -> None:
    W_enc, b_enc = weights(0)
    x, score = tokens(1), torch.linspace(0, 1, D_SAE)
    twice = screened(W_enc, b_enc, x).weighted(score).weighted(score)
    assert chosen(twice, K) == chosen(formed(W_enc, b_enc, x).weighted(score**2), K)
    torch.testing.assert_close(twice.gamma, (x @ W_enc + b_enc) * score**2)


def test_largest_among_equals_has_the_values_of_the_whole_product() -> None:
    W_enc, b_enc = weights(0)
    W_enc[:, 50:] = W_enc[:, :50].repeat(1, 7)  # every neuron eight times
    b_enc[50:] = b_enc[:50].repeat(7)
    one, other = screened(W_enc, b_enc, tokens(1)), formed(W_enc, b_enc, tokens(1))
    for k in (3, 8, 20):
        values, expected = (pre.at(pre.largest(k)).sort().values for pre in (one, other))
        torch.testing.assert_close(values, expected)


def test_largest_forms_the_whole_product_where_too_many_are_close() -> None:
    """Neurons that float16 cannot tell apart: they differ in the 17th bit."""
    x, b_enc = torch.ones(2, D_IN), torch.zeros(D_SAE)
    steps = np.random.default_rng(0).permutation(D_SAE)
    W_enc = torch.from_numpy(np.tile(1 + steps * 2.0**-17, (D_IN, 1)).astype(np.float32))
    pre = screened(W_enc, b_enc, x)
    assert (W_enc.half() == 1).all(dim=0).sum() > 60  # the first pass sees these as one
    assert set(pre.largest(K)[0].tolist()) == set(np.argsort(steps)[-K:].tolist())
    assert "gamma" in vars(pre)


def test_largest_forms_few_values_where_neurons_differ() -> None:
    pre = screened(*weights(0), tokens(1))
    pre.largest(K)
    assert "gamma" not in vars(pre)


def test_of_takes_the_part_of_some_tokens() -> None:
    W_enc, b_enc = weights(0)
    x, mask = tokens(1), torch.tensor([True, False, True])
    assert chosen(screened(W_enc, b_enc, x).of(mask), K) == chosen(formed(W_enc, b_enc, x[mask]), K)


def test_first_pass_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.models.first_pass.runs_here", lambda: False)
    assert FirstPass.of(*weights(0)) is None


def test_first_pass_is_for_float32_weights_that_float16_can_hold() -> None:
    W_enc, b_enc = weights(0)
    assert FirstPass.of(W_enc.bfloat16(), b_enc.bfloat16()) is None
    assert FirstPass.of(1e5 * W_enc, b_enc) is None
