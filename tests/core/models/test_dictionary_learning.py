"""SAE folders of dictionary_learning: each class by its formula, written out here; its pickles are refused."""

import ast
import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.catalog import Setup
from core.errors import AutoencoderError, UnsafeWeightsError
from core.models.sae_folder import SaeFolder, read_sae_folder
from core.models.sparse_autoencoder import SparseAutoencoder, load_sparse_autoencoder

D_IN, D_SAE, K = 8, 24, 3
LINEAR = {"encoder.weight": (D_SAE, D_IN), "encoder.bias": (D_SAE,), "decoder.weight": (D_IN, D_SAE)}
PLAIN = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "AutoEncoder": {**LINEAR, "bias": (D_IN,)},
    "AutoEncoderNew": {**LINEAR, "decoder.bias": (D_IN,)},
    "AutoEncoderTopK": {**LINEAR, "b_dec": (D_IN,)},
    "BatchTopKSAE": {**LINEAR, "b_dec": (D_IN,), "threshold": ()},
    "MatryoshkaBatchTopKSAE": {**PLAIN, "threshold": ()},
    "JumpReluAutoEncoder": {**PLAIN, "threshold": (D_SAE,)},
    "GatedAutoEncoder": {
        **{name: shape for name, shape in LINEAR.items() if name != "encoder.bias"},
        **{name: (D_SAE,) for name in ("r_mag", "gate_bias", "mag_bias")},
        "decoder_bias": (D_IN,),
    },
}


def write(folder: Path, kind: str, **trainer: object) -> dict[str, Tensor]:
    """A converted folder of that class; returns its tensors."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES[kind].items()}
    if "threshold" in weights:
        weights["threshold"].abs_()
    folder.mkdir(parents=True)
    config = {"trainer": {"dict_class": kind, "k": K, "layer": 6, "lm_name": "m", **trainer}, "buffer": {"ctx_len": 8}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, folder / "ae.safetensors")
    return weights


def expected(kind: str, w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """(a, reconstruction) of the library's `encode` and `decode`."""
    if kind == "GatedAutoEncoder":
        norm = w["decoder.weight"].norm(dim=0)
        pre = (x - w["decoder_bias"]) @ w["encoder.weight"].T
        gate, magnitude = pre + w["gate_bias"], w["r_mag"].exp() * pre + w["mag_bias"]
        a = (gate > 0).float() * magnitude.relu() * norm
        return a, (a / norm) @ w["decoder.weight"].T + w["decoder_bias"]
    if kind == "JumpReluAutoEncoder":
        norm, pre = w["W_dec"].norm(dim=1), x @ w["W_enc"] + w["b_enc"]
        a = (pre * (pre > w["threshold"])).relu() * norm
        return a, (a / norm) @ w["W_dec"] + w["b_dec"]
    if kind == "MatryoshkaBatchTopKSAE":
        pre = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
        a = pre * (pre > w["threshold"])
        return a, a @ w["W_dec"] + w["b_dec"]
    if kind == "AutoEncoderNew":
        a = (x @ w["encoder.weight"].T + w["encoder.bias"]).relu()
        return a, a @ w["decoder.weight"].T + w["decoder.bias"]
    bias = w["bias" if kind == "AutoEncoder" else "b_dec"]
    a = ((x - bias) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    if kind == "AutoEncoderTopK":
        top = a.topk(K)
        a = torch.zeros_like(a).scatter(1, top.indices, top.values)
    if kind == "BatchTopKSAE":
        a = a * (a > w["threshold"])
    return a, a @ w["decoder.weight"].T + bias


def load(folder: Path, hook_name: str | None = None) -> SparseAutoencoder:
    return load_sparse_autoencoder(Setup(name="s", model="none", sae=str(folder), hook_name=hook_name))


@pytest.mark.parametrize("kind", SHAPES)
def test_folder_equals_the_librarys_formula(kind: str, tmp_path: Path) -> None:
    w = write(tmp_path / "sae", kind)
    x = torch.randn(200, D_IN, generator=torch.Generator().manual_seed(1))
    a, reconstruction = expected(kind, w, x)
    assert 0 < int((a != 0).sum()) < a.numel()
    sae = load(tmp_path / "sae")
    pre = sae.pre_activations(x)
    torch.testing.assert_close(sae.activate(pre), a)
    torch.testing.assert_close(sae.decode(a, pre), reconstruction)
    torch.testing.assert_close(sae.decode_sparse(sae.select(pre), pre), reconstruction, atol=1e-4, rtol=1e-4)
    assert (sae.hook_name, sae.d_sae, sae.d_in) == ("blocks.6.hook_resid_post", D_SAE, D_IN)
    assert read_sae_folder(tmp_path / "sae") == SaeFolder("dictionary_learning", D_IN, D_SAE, sae.hook_name)


def test_class_that_is_not_read_is_named(tmp_path: Path) -> None:
    write(tmp_path / "sae", "AutoEncoder", dict_class="CrossCoder")
    with pytest.raises(AutoencoderError, match=r"dict_class 'CrossCoder'; AutoEncoder, AutoEncoderNew, .* are read"):
        load(tmp_path / "sae")


def test_module_other_than_a_block_needs_a_hook_name(tmp_path: Path) -> None:
    write(tmp_path / "sae", "AutoEncoder", submodule_name="mlp_out_layer_6")
    with pytest.raises(AutoencoderError, match="does not name its hook point; set hook_name in the setup"):
        load(tmp_path / "sae")
    assert load(tmp_path / "sae", "blocks.6.hook_mlp_out").hook_name == "blocks.6.hook_mlp_out"


def test_pickle_is_refused_with_the_conversion_of_its_library(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    torch.save({"bias": torch.zeros(2)}, folder / "ae.pt")
    for read in (load, read_sae_folder):
        with pytest.raises(
            UnsafeWeightsError, match=r"pickled ones .* dictionary_learning converts its ae.pt"
        ) as caught:
            read(folder)  # type: ignore[operator]
        *_, code = shlex.split(str(caught.value).partition("ae.pt: ")[2])
        written = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
        assert {str(folder), str(folder / "ae.safetensors")} <= set(written)
