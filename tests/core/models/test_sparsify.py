"""SAE folders of sparsify, and hook points by other libraries' names."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.catalog import Setup
from core.errors import AutoencoderError, HubError
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder, load_sparse_autoencoder
from core.settings import canonical_hook

D_IN, D_SAE, K = 8, 24, 3
CONFIG = {"activation": "topk", "expansion_factor": 3, "num_latents": D_SAE, "k": K, "d_in": D_IN, "signed": False}


def write(folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    """A folder as sparsify writes it; returns its tensors."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"encoder.weight": (D_SAE, D_IN), "encoder.bias": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps(CONFIG | changes), encoding="utf-8")
    save_file(weights, folder / "sae.safetensors")
    return weights


def load(folder: Path, hook_name: str | None = None) -> SparseAutoencoder:
    return load_sparse_autoencoder(Setup(name="s", model="none", sae=str(folder), hook_name=hook_name))


def test_folder_equals_sparsifys_formula(tmp_path: Path) -> None:
    w = write(tmp_path / "layers.6")
    x = torch.randn(50, D_IN, generator=torch.Generator().manual_seed(1))
    gamma = torch.relu((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    top = gamma.topk(K)
    a = torch.zeros_like(gamma).scatter(1, top.indices, top.values)
    sae = load(tmp_path / "layers.6")
    pre = sae.pre_activations(x)
    torch.testing.assert_close(sae.activate(pre), a)
    torch.testing.assert_close(sae.decode(sae.activate(pre), pre), a @ w["W_dec"] + w["b_dec"])
    torch.testing.assert_close(sae.decode_sparse(sae.select(pre), pre), a @ w["W_dec"] + w["b_dec"])
    assert (sae.hook_name, sae.d_sae, sae.k) == ("blocks.6.hook_resid_post", D_SAE, K)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "groupmax"}, "activation = 'groupmax'; only plain TopK SAEs of it are read"),
        ({"transcode": True}, "transcode = True; only plain"),
        ({"skip_connection": True}, "skip_connection = True; only plain"),
        ({"k": "many"}, "k of SAE '.*' is a whole number from 1 to its 24 neurons, not 'many'"),
        ({"k": 25}, "is a whole number from 1 to its 24 neurons, not 25"),
    ],
    ids=str,
)
def test_folder_with_another_formula_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write(tmp_path / "layers.6", **changes)
    with pytest.raises(AutoencoderError, match=message):
        load(tmp_path / "layers.6")


def test_folder_of_another_name_needs_a_hook_name(tmp_path: Path) -> None:
    write(tmp_path / "mine")
    with pytest.raises(AutoencoderError, match="does not name its hook point; set hook_name in the setup"):
        load(tmp_path / "mine")
    assert load(tmp_path / "mine", "transformer.h.2").hook_name == "blocks.2.hook_resid_post"


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("model.layers.6", "blocks.6.hook_resid_post"),
        ("transformer.h.6", "blocks.6.hook_resid_post"),
        ("layers.6", "blocks.6.hook_resid_post"),
        ("gpt_neox.layers.11", "blocks.11.hook_resid_post"),
        ("model.layers.6.mlp", "blocks.6.hook_mlp_out"),
        ("blocks.6.hook_resid_pre", "blocks.6.hook_resid_pre"),
        ("model.layers.six", "model.layers.six"),
    ],
)
def test_hook_points_by_other_libraries_names(given: str, ours: str) -> None:
    assert canonical_hook(given) == ours
    assert Setup(name="s", model="m", sae="s", hook_name=given).hook_name == ours


def test_model_takes_other_libraries_names(gpt2: LanguageModel) -> None:
    tokens = gpt2.pad([gpt2.tokenise("a few words")])
    same = [gpt2.activations(tokens, name) for name in ("blocks.1.hook_resid_post", "transformer.h.1", "layers.1")]
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])
    assert gpt2.hook_site("model.layers.1").hook_name == "blocks.1.hook_resid_post"


def test_repository_of_a_hub_loads_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--EleutherAI--sae-x" / "snapshots" / ("0" * 40)
    weights = write(snapshot / "layers.15.mlp")
    (tmp_path / "models--EleutherAI--sae-x" / "refs").mkdir()
    (tmp_path / "models--EleutherAI--sae-x" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    sae = load_sparse_autoencoder(Setup(name="s", model="none", sae="EleutherAI/sae-x:layers.15.mlp"))
    assert (sae.name, sae.hook_name) == ("EleutherAI/sae-x:layers.15.mlp", "blocks.15.hook_mlp_out")
    assert torch.equal(sae.W_dec, weights["W_dec"])
    with pytest.raises(HubError, match=r"cannot fetch SAE 'EleutherAI/sae-x:layers.16.mlp'"):
        load_sparse_autoencoder(Setup(name="s", model="none", sae="EleutherAI/sae-x:layers.16.mlp"))
