"""Steering vectors as files, read back by the libraries that others read them with."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open

from core.errors import EditError, ExportError
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder
from core.steering.code_edits import Reconstruct
from core.steering.directions import mean_activation, mean_shift
from core.steering.edits import add_neurons
from core.steering.vector_file import control_block, write_vector
from tests.fixtures.autoencoders import HOOK_NAME

PROMPTS = ("The surgeon mends a heart.", "Rain")


def test_added_neuron_comes_back_equal_from_both_formats(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder], tmp_path: Path
) -> None:
    sae = saes["gpt2-topk"]
    edit = add_neurons(sae, {17: 40.0, 3: -2.5})
    shift = mean_shift(gpt2, edit, PROMPTS)
    expected = 40 * sae.W_dec[17] - 2.5 * sae.W_dec[3]
    torch.testing.assert_close(shift, expected.float(), atol=1e-4, rtol=1e-4)

    tensors = GGUFReader(write_vector(shift, HOOK_NAME, gpt2, tmp_path / "v.gguf")).tensors
    assert [tensor.name for tensor in tensors] == ["direction.1"]
    assert torch.equal(torch.tensor(tensors[0].data), shift)

    with safe_open(write_vector(shift, HOOK_NAME, gpt2, tmp_path / "v.safetensors"), "pt") as file:
        assert torch.equal(file.get_tensor("direction"), shift)
        assert file.metadata() == {"hook_name": HOOK_NAME, "model": gpt2.name}


def test_control_vector_says_what_llama_cpp_reads(gpt2: LanguageModel, tmp_path: Path) -> None:
    reader = GGUFReader(write_vector(torch.ones(gpt2.d_model), HOOK_NAME, gpt2, tmp_path / "v.gguf"))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "gpt2"
    assert fields["controlvector.layer_count"] == 1


def test_mean_shift_of_an_edit_is_the_mean_of_what_it_changes(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    edit = Reconstruct(sae=saes["gpt2-topk"])
    rows = []
    for prompt in map(gpt2.tokenise, PROMPTS):
        x = gpt2.activations(gpt2.pad([prompt]), HOOK_NAME)[0][~torch.tensor(prompt.special)]
        rows.append(edit.apply(x) - x)
    torch.testing.assert_close(mean_shift(gpt2, edit, PROMPTS), torch.cat(rows).mean(0), atol=1e-5, rtol=1e-4)
    assert mean_activation(gpt2, HOOK_NAME, PROMPTS).norm() > 0


@pytest.mark.parametrize(("hook_name", "block"), [("blocks.14.hook_resid_post", 14), ("blocks.14.hook_resid_pre", 13)])
def test_block_of_a_control_vector(hook_name: str, block: int) -> None:
    assert control_block(hook_name) == block


@pytest.mark.parametrize(
    ("hook_name", "problem"),
    [("blocks.3.hook_mlp_out", "is none; use .safetensors"), ("blocks.0.hook_resid_post", "from block 1 on")],
)
def test_hook_point_that_llama_cpp_does_not_reach_is_refused(hook_name: str, problem: str) -> None:
    with pytest.raises(EditError, match=problem):
        control_block(hook_name)


def test_other_places_and_formats_are_refused(gpt2: LanguageModel, tmp_path: Path) -> None:
    ones = torch.ones(gpt2.d_model)
    with pytest.raises(ExportError, match=r"not 'v\.pt'"):
        write_vector(ones, HOOK_NAME, gpt2, tmp_path / "v.pt")
    with pytest.raises(ExportError, match="create it first"):
        write_vector(ones, HOOK_NAME, gpt2, tmp_path / "none" / "v.gguf")
