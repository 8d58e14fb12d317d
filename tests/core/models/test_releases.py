"""sae_lens's list of SAEs, read as a file, equals what sae_lens makes of it; presets stand in it."""

import subprocess
import sys

import pytest
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from core.catalog import all_setups
from core.models.releases import is_sparsify_repository, nearest_releases, problem_of, published_saes

PRESETS = {name: setup for name, setup in all_setups().items() if setup.origin == "preset"}


def test_list_is_that_of_sae_lens_without_what_is_no_sae() -> None:
    theirs = {
        f"{release}:{id}": (entry.repo_id, entry.expected_l0[id] or None)
        for release, entry in get_pretrained_saes_directory().items()
        for id in entry.saes_map
    }
    ours = published_saes()
    assert {name: theirs[name][1] for name in ours} == {name: sae.l0 for name, sae in ours.items()}
    left_out = {name.partition(":")[0] for name in theirs.keys() - ours.keys()}
    assert left_out.isdisjoint(sae.release for sae in ours.values())
    assert {name for name in left_out if "transcoder" not in name} == {
        "mntss-gemma-2-2b-2.5m-clt-as-per-layer",
        "temporal-sae-gemma-2-2b",
        "temporal-sae-llama-3.1-8b",
    }


def test_every_model_of_the_list_has_a_name_on_a_hub() -> None:
    assert {sae.model for sae in published_saes().values() if "/" not in sae.model} == {"gpt2"}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_stands_in_the_list_with_its_model(name: str) -> None:
    setup = PRESETS[name]
    if is_sparsify_repository(setup.sae):
        assert setup.sae == "EleutherAI/sae-SmolLM2-135M-64x:layers.15.mlp"
        return
    sae = published_saes()[setup.sae]
    if sae.release == "llama_scope_lxr_8x":  # trained on the base model, and used on the one that answers
        assert sae.model == "meta-llama/Llama-3.1-8B"
    else:
        assert sae.model == setup.model


@pytest.mark.parametrize(
    ("name", "hook_name", "d_sae"),
    [
        ("gpt2-small-resid-post-v5-32k:blocks.6.hook_resid_post", "blocks.6.hook_resid_post", 32_768),
        ("gpt2-small-res-jb-feature-splitting:blocks.8.hook_resid_pre_768", "blocks.8.hook_resid_pre", 768),
        ("gpt2-small-hook-z-kk:blocks.0.hook_z", "blocks.0.attn.hook_z", None),
        ("gemma-scope-2b-pt-res:embedding/width_4k/average_l0_6", "hook_embed", 4_096),
        ("gemma-scope-2b-pt-att-canonical:layer_0/width_16k/canonical", "blocks.0.attn.hook_z", 16_384),
        ("gemma-scope-9b-pt-mlp-canonical:layer_0/width_131k/canonical", "blocks.0.hook_mlp_out", 131_072),
        ("gemma-scope-2-270m-it-res:layer_12_width_262k_l0_medium", "blocks.12.hook_resid_post", 262_144),
        ("gemma-scope-2-1b-it-res:layer_13_width_1m_l0_big", "blocks.13.hook_resid_post", 2**20),
        ("gemma-scope-2-4b-it-att:layer_17_width_65k_l0_big", "blocks.17.attn.hook_z", 65_536),
        ("llama_scope_lxm_32x:l31m_32x", "blocks.31.hook_mlp_out", 131_072),
        ("llama-3.1-8b-instruct-andyrdt:resid_post_layer_15_trainer_1", "blocks.15.hook_resid_post", None),
        ("goodfire-llama-3.1-8b-instruct:layer_19", "blocks.19.hook_resid_post", None),
        ("qwen-scope-3.5-27b-w80k-l50:layer0", "blocks.0.hook_resid_post", 81_920),
        ("sae_bench_gemma-2-2b_topk_width-2pow12_date-1109:blocks.12.hook_resid_post__trainer_0", None, 4_096),
    ],
)
def test_list_tells_hook_point_and_size(name: str, hook_name: str | None, d_sae: int | None) -> None:
    sae = published_saes()[name]
    assert (sae.hook_name, sae.d_sae) == (hook_name or "blocks.12.hook_resid_post", d_sae)


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        ("gpt2-small-res-jb:blocks.6.hook_resid_pre", None),
        ("somebody/repository:folder", None),  # only the hub knows
        ("gpt2-smal-res-jb:x", "sae_lens lists no release 'gpt2-smal-res-jb'; releases like it are gpt2-small-res-jb:"),
        ("zzzzzz:x", "sae_lens lists no release 'zzzzzz'"),
        ("gpt2-small-res-jb:blocks.6", "has no SAE 'blocks.6'; it has blocks.6.hook_resid_pre, "),
        ("mwhanna-qwen3-4b-transcoders:layer_0", "has no SAEs of one hook point, and is not read"),
    ],
)
def test_problem_of_a_name_is_told(sae: str, message: str | None) -> None:
    assert (message or "None") in str(problem_of(sae))


def test_repository_of_sparsify_names_a_module() -> None:
    assert is_sparsify_repository("EleutherAI/sae-SmolLM2-135M-64x:layers.15.mlp")
    assert not is_sparsify_repository("somebody/repository:blocks.6.hook_resid_post")
    assert not is_sparsify_repository("gpt2-small-res-jb:layers.6")


def test_list_needs_no_deep_learning_library() -> None:
    code = (
        "import sys; from core.models.releases import nearest_releases; nearest_releases('gpt2'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "sae_lens", "transformers"}.isdisjoint(done.stdout.split())
    assert nearest_releases("gpt2-small-res-jb")[0] == "gpt2-small-res-jb:blocks.0.hook_resid_pre"
