"""Stateless SAEs equal `sae_lens` bit for bit, serve many callers at once, and refuse what cannot be edited."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.registry import get_sae_class
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file

from core.catalog import Setup
from core.errors import AutoencoderError, HubError, UnsafeWeightsError
from core.models.sparse_autoencoder import (
    ARCHITECTURES,
    NORMALISATIONS,
    SparseAutoencoder,
    check_fits,
    from_sae_lens,
    load_sparse_autoencoder,
)

D_IN, D_SAE, K = 16, 40, 5
HOOK = "blocks.1.hook_resid_post"
TOPK_KINDS = ("topk", "abstopk")
VARIANTS = [
    pytest.param(architecture, normalisation, apply_b_dec, rescale, id=f"{architecture}-{normalisation}-{note}")
    for architecture in ARCHITECTURES
    for normalisation in NORMALISATIONS
    for apply_b_dec in (True, False)
    for rescale in ((True, False) if architecture in TOPK_KINDS else (False,))
    for note in [f"{'b_dec' if apply_b_dec else 'no_b_dec'}{'-rescaled' if rescale else ''}"]
]


def random_sae(architecture: str, *, metadata: dict[str, Any] | None = None, seed: int = 0, **config: Any) -> SAE[Any]:
    """An sae_lens SAE of normal random weights."""
    sae_class, config_class = get_sae_class(architecture)
    if architecture in TOPK_KINDS:
        config["k"] = K
    information = SAEMetadata(**{"hook_name": HOOK, **(metadata or {})})
    sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, metadata=information, **config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if name == "threshold":
                parameter.abs_()
    return sae


def activations(*shape: int, seed: int = 1) -> torch.Tensor:
    return 3 * torch.randn(*shape, D_IN, generator=torch.Generator().manual_seed(seed)) + 1


@pytest.mark.parametrize(("architecture", "normalisation", "apply_b_dec", "rescale"), VARIANTS)
@torch.no_grad()
def test_encode_and_decode_equal_sae_lens_exactly(
    architecture: str, normalisation: str, apply_b_dec: bool, rescale: bool
) -> None:
    more = {"rescale_acts_by_decoder_norm": rescale} if architecture in TOPK_KINDS else {}
    theirs = random_sae(architecture, normalize_activations=normalisation, apply_b_dec_to_input=apply_b_dec, **more)
    ours = from_sae_lens(theirs, name="random")
    seen: list[torch.Tensor] = []
    theirs.hook_sae_acts_pre.register_forward_hook(lambda _module, _args, out: seen.append(out))
    x = activations(2, 7)

    pre = ours.pre_activations(x)
    a = ours.activate(pre)
    expected = theirs.encode(x)
    assert torch.equal(a, expected)
    assert 0 < (a != 0).sum() < a.numel()
    # sae_lens shows its pre-activations before it rescales them
    assert torch.equal(pre.gamma, seen[0] * theirs.W_dec.norm(dim=-1) if rescale else seen[0])
    assert torch.equal(ours.decode(a, pre), theirs.decode(expected))


@pytest.mark.parametrize(("architecture", "normalisation", "apply_b_dec", "rescale"), VARIANTS)
@torch.no_grad()
def test_sparse_code_is_the_dense_one(architecture: str, normalisation: str, apply_b_dec: bool, rescale: bool) -> None:
    more = {"rescale_acts_by_decoder_norm": rescale} if architecture in TOPK_KINDS else {}
    theirs = random_sae(architecture, normalize_activations=normalisation, apply_b_dec_to_input=apply_b_dec, **more)
    sae = from_sae_lens(theirs, name="random")
    pre = sae.pre_activations(activations(9))
    a, code = sae.activate(pre), sae.select(pre)
    assert torch.equal(code.dense(D_SAE), a)
    torch.testing.assert_close(sae.decode_sparse(code, pre), sae.decode(a, pre), rtol=1e-5, atol=1e-4)


def test_topk_keeps_no_negative_value() -> None:
    sae = from_sae_lens(random_sae("topk"), name="random")
    gamma = torch.full((1, D_SAE), -1.0)
    gamma[0, [3, 8]] = torch.tensor([2.0, 0.5])
    pre = sae.pre_activations(activations(1))
    code = sae.select(type(pre)(gamma))
    assert {int(n): float(v) for n, v in zip(code.neurons[0], code.values[0], strict=True) if v != 0} == {
        3: 2.0,
        8: 0.5,
    }


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
@torch.no_grad()
def test_interleaved_calls_do_not_disturb_each_other(normalisation: str) -> None:
    theirs = random_sae("standard", normalize_activations=normalisation)
    x, other = activations(4), 100 * activations(4, seed=2)
    expected = theirs.decode(theirs.encode(x))
    # the trap: sae_lens keeps the statistics of the latest input on the object
    a = theirs.encode(x)
    theirs.encode(other)
    assert not torch.allclose(theirs.decode(a), expected)

    ours = from_sae_lens(theirs, name="random")
    pre = ours.pre_activations(x)
    ours.pre_activations(other)
    assert torch.equal(ours.decode(ours.activate(pre), pre), expected)


@torch.no_grad()
def test_eight_threads_share_one_sae() -> None:
    sae = from_sae_lens(random_sae("topk", normalize_activations="layer_norm"), name="random")
    inputs = [10.0**i * activations(5, seed=i) for i in range(8)]

    def reconstruct(x: torch.Tensor) -> torch.Tensor:
        pre = sae.pre_activations(x)
        return sae.decode(sae.activate(pre), pre)

    expected = [reconstruct(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert all(map(torch.equal, pool.map(reconstruct, inputs), expected))


@torch.no_grad()
def test_hook_z_sae_reads_flattened_heads() -> None:
    theirs = random_sae(
        "standard", reshape_activations="hook_z", metadata={"hook_name": "blocks.1.attn.hook_z"}, seed=3
    )
    ours = from_sae_lens(theirs, name="random")
    x = activations(6)
    pre = ours.pre_activations(x)  # the native module sees the heads side by side
    heads = x.view(6, 4, D_IN // 4)
    assert torch.equal(ours.activate(pre), theirs.encode(heads))
    assert torch.equal(ours.decode(ours.activate(pre), pre), theirs.decode(theirs.encode(heads)).flatten(-2))


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty model_from_pretrained_kwargs")
@torch.no_grad()
def test_sae_of_a_centred_model_reads_centred_activations(tmp_path: Path) -> None:
    # as gpt2-small-res-jb: trained on TransformerLens activations, whose mean over d_in is zero
    metadata = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    random_sae("standard", metadata=metadata).save_model(tmp_path)
    theirs = SAE.load_from_disk(tmp_path)
    ours = load_sparse_autoencoder(Setup(name="x", model="none", sae=str(tmp_path)))
    x = activations(6)
    pre = ours.pre_activations(x)
    assert torch.equal(ours.activate(pre), theirs.encode(x - x.mean(-1, keepdim=True)))


def test_half_precision_input_is_read_in_the_weights_dtype() -> None:
    sae = from_sae_lens(random_sae("standard", normalize_activations="layer_norm"), name="random")
    x = activations(3).bfloat16()
    assert torch.equal(sae.pre_activations(x).gamma, sae.pre_activations(x.float()).gamma)


def test_matching_pursuit_is_refused_with_its_reason() -> None:
    sae_class, config_class = get_sae_class("matching_pursuit")
    sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, max_iterations=4, metadata=SAEMetadata(hook_name=HOOK)))
    with pytest.raises(AutoencoderError, match=r"^mp: matching pursuit picks neurons one by one and has no pre-act"):
        from_sae_lens(sae, name="mp")


def test_unfolded_whitening_is_refused() -> None:
    sae = random_sae("standard", normalize_activations="covariance_whitening")
    message = "normalisation 'covariance_whitening' is not supported; fold it into the weights"
    with pytest.raises(AutoencoderError, match=message):
        from_sae_lens(sae, name="random")


def test_hook_name_comes_from_the_setup_then_the_sae() -> None:
    assert from_sae_lens(random_sae("topk"), name="x").hook_name == HOOK
    assert from_sae_lens(random_sae("topk"), name="x", hook_name="blocks.0.hook_out").hook_name == "blocks.0.hook_out"
    with pytest.raises(AutoencoderError, match="does not name its hook point; set hook_name in the setup"):
        from_sae_lens(random_sae("topk", metadata={"hook_name": None}), name="x")


# ---- from disk ----


def load(folder: Path | str, **more: Any) -> SparseAutoencoder:
    return load_sparse_autoencoder(Setup(name="x", model="none", sae=str(folder), **more))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_folder_loads_with_its_settings(architecture: str, tmp_path: Path) -> None:
    theirs = random_sae(architecture, normalize_activations="layer_norm", metadata={"prepend_bos": False})
    theirs.save_model(tmp_path)
    sae = load(tmp_path)
    assert (sae.architecture, sae.d_in, sae.d_sae, sae.prepend_bos) == (architecture, D_IN, D_SAE, False)
    x = activations(5)
    assert torch.equal(sae.activate(sae.pre_activations(x)), theirs.encode(x))


def test_folder_in_the_format_before_version_6_loads_as_topk(tmp_path: Path) -> None:
    # the published OpenAI v5 SAEs of gpt2 look like this
    theirs = random_sae("topk", normalize_activations="layer_norm")
    theirs.save_model(tmp_path)
    old = {
        "architecture": "standard",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "normalize_activations": "layer_norm",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "hook_name": "blocks.6.hook_resid_post",
        "prepend_bos": False,
    }
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    sae = load(tmp_path)
    assert (sae.architecture, sae.k, sae.hook_name) == ("topk", K, "blocks.6.hook_resid_post")
    assert (sae.normalisation, sae.apply_b_dec_to_input, sae.prepend_bos) == ("layer_norm", True, False)


def test_folder_with_pickled_weights_only_is_refused(tmp_path: Path) -> None:
    random_sae("topk").save_model(tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    torch.save(load_file(weights), tmp_path / "sae_weights.pt")
    weights.unlink()
    with pytest.raises(UnsafeWeightsError, match=r"has no safetensors weights; pickled ones .* are not loaded"):
        load(tmp_path)


def _without(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        weights = load_file(folder / "sae_weights.safetensors")
        save_file({k: v for k, v in weights.items() if k != name}, folder / "sae_weights.safetensors")

    return remove


def _with_nan(folder: Path) -> None:
    weights = load_file(folder / "sae_weights.safetensors")
    weights["W_dec"][0, 0] = float("nan")
    save_file(weights, folder / "sae_weights.safetensors")


def _narrower(folder: Path) -> None:
    weights = load_file(folder / "sae_weights.safetensors")
    save_file({k: v[:7].contiguous() for k, v in weights.items()}, folder / "sae_weights.safetensors")


def _cut(folder: Path) -> None:
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "cfg.json").unlink(),
            "is not an SAE folder of sae_lens, sparsify or dictionary_learning: it has no cfg.json",
        ),
        (lambda folder: (folder / "cfg.json").write_text("{"), "cannot load SAE"),
        (
            lambda folder: (folder / "cfg.json").write_text('{"architecture": "wavelet"}'),
            "'wavelet' is not supported; standard",
        ),
        (lambda folder: (folder / "cfg.json").write_text("[]"), "cfg.json' is a table of settings, not a list"),
        (_with_nan, "holds NaN or infinity in W_dec"),
        (_without("W_enc"), "cannot load SAE .*W_enc"),
        (_narrower, "cannot load SAE .*size mismatch"),
        (_cut, "cannot load SAE"),
    ],
    ids=[
        "no cfg",
        "broken cfg",
        "unknown architecture",
        "a list",
        "NaN",
        "tensor missing",
        "wrong shape",
        "file cut short",
    ],
)
def test_damaged_folder_is_named_in_one_line(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    random_sae("topk").save_model(tmp_path)
    damage(tmp_path)
    with pytest.raises(AutoencoderError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(AutoencoderError, match=r"'.*nothing-here' is not an SAE folder"):
        load(tmp_path / "nothing-here")


def test_unknown_release_is_refused_and_a_known_one_needs_the_hub() -> None:
    with pytest.raises(AutoencoderError, match=r"cannot load SAE 'no-such-release:id'.*not found"):
        load("no-such-release:id")
    with pytest.raises(HubError, match=r"cannot fetch SAE 'gpt2-small-res-jb:.*connect, or give a folder as `sae`"):
        load("gpt2-small-res-jb:blocks.6.hook_resid_pre")


def test_check_fits_refuses_another_width() -> None:
    sae = from_sae_lens(random_sae("topk"), name="wide")
    check_fits(sae, D_IN, "gpt2")
    with pytest.raises(AutoencoderError, match=r"^SAE 'wide' reads 16 dimensions at blocks.*, but gpt2 has 32 there$"):
        check_fits(sae, 32, "gpt2")
