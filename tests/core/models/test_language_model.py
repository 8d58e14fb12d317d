"""Loading, tokens, hook points, and interventions that belong to one thread."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from core.catalog import Setup
from core.errors import HubError, ModelFolderError, SetupConfigError, UnknownHookError, UnsafeWeightsError
from core.models.language_model import LanguageModel
from core.models.loading import load_language_model
from core.models.tokens import TokenisedPrompt

RESID_POST = "blocks.1.hook_resid_post"
HOOKS = (RESID_POST, "blocks.0.hook_resid_pre", "blocks.2.hook_mlp_out", "blocks.1.attn.hook_z")
TEXT = "The surgeon mends a heart."


@pytest.fixture(params=["gpt2", "qwen2"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    loaded: LanguageModel = request.getfixturevalue(request.param)
    return loaded


@contextmanager
def prepending_bos(model: LanguageModel, value: bool) -> Iterator[None]:
    before, model.prepend_bos = model.prepend_bos, value
    try:
        yield
    finally:
        model.prepend_bos = before


# ---- tokens ----


def test_tokenise_marks_only_the_beginning_of_text(gpt2: LanguageModel) -> None:
    tokens = gpt2.tokenise(TEXT)
    assert tokens.ids[0] == gpt2.tokenizer.eos_token_id  # GPT-2 begins a text with its end-of-text token
    assert tokens.special == [True] + [False] * (len(tokens.ids) - 1)
    assert gpt2.tokenizer.decode(tokens.ids[1:]) == TEXT
    with prepending_bos(gpt2, False):
        assert gpt2.tokenise(TEXT) == TokenisedPrompt(tokens.ids[1:], tokens.special[1:])


def test_template_words_in_a_prompt_are_ordinary_text(gpt2: LanguageModel, qwen2: LanguageModel) -> None:
    for model, marker in ((gpt2, "<|endoftext|>"), (qwen2, "<|im_start|>")):
        tokens = model.tokenise(f"{marker}user")
        content = [i for i, special in zip(tokens.ids, tokens.special, strict=True) if not special]
        assert model.tokenizer.convert_tokens_to_ids(marker) not in content
        assert model.tokenizer.decode(content) == f"{marker}user"


def test_template_is_the_tokenizers_whatever_the_setup_says(
    gpt2: LanguageModel, qwen2: LanguageModel, instruct: LanguageModel
) -> None:
    assert [model.has_template for model in (gpt2, qwen2, instruct)] == [False, True, True]
    assert [model.chat for model in (gpt2, qwen2, instruct)] == [False, True, False]


def test_prompt_is_a_chat_where_asked_else_as_the_setup_says(qwen2: LanguageModel, instruct: LanguageModel) -> None:
    for more in ({}, {"generate": True}, {"max_length": 12}):
        chat, plain = qwen2.tokenise(TEXT, **more), instruct.tokenise(TEXT, **more)  # type: ignore[arg-type]
        assert chat.ids != plain.ids
        assert (plain.roles, len(chat.roles)) == ([], len(chat.ids))
        for model in (qwen2, instruct):
            assert model.tokenise(TEXT, chat=True, **more) == chat  # type: ignore[arg-type]
            assert model.tokenise(TEXT, chat=False, **more) == plain  # type: ignore[arg-type]
    assert instruct.tokenizer.decode(instruct.tokenise(TEXT).ids[1:]) == TEXT  # after the first token


def test_chat_without_a_template_is_refused_where_asked(gpt2: LanguageModel) -> None:
    with pytest.raises(ModelFolderError, match="has no chat template"):
        gpt2.tokenise(TEXT, chat=True)


def test_tokenise_keeps_the_first_tokens(model: LanguageModel) -> None:
    whole, cut = model.tokenise(TEXT), model.tokenise(TEXT, max_length=4)
    assert (cut.ids, cut.special) == (whole.ids[:4], whole.special[:4])


def test_pad_left_and_right(gpt2: LanguageModel) -> None:
    prompts = [TokenisedPrompt([7, 8, 9], [True, False, False]), TokenisedPrompt([5], [False])]
    right, left = gpt2.pad(prompts), gpt2.pad(prompts, side="left")
    assert right.attention.tolist() == [[True, True, True], [True, False, False]]
    assert left.attention.tolist() == [[True, True, True], [False, False, True]]
    assert [row[mask].tolist() for row, mask in zip(left.ids, left.attention, strict=True)] == [[7, 8, 9], [5]]
    assert [row[mask].tolist() for row, mask in zip(right.ids, right.attention, strict=True)] == [[7, 8, 9], [5]]
    # padding counts as special, so that nothing sums over it
    assert right.special.tolist() == [[True, False, False], [False, True, True]]
    assert left.special.tolist() == [[True, False, False], [True, True, False]]
    assert left.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]


def test_padding_does_not_change_logits(model: LanguageModel) -> None:
    texts = [TEXT, "A much longer line about sailing ships, storms and the sea."]
    tokenised = [model.tokenise(text) for text in texts]
    for side in ("left", "right"):
        tokens = model.pad(tokenised, side=side)  # type: ignore[arg-type]
        together = model.forward(tokens)
        for row, prompt in enumerate(tokenised):
            alone = model.forward(model.pad([prompt]))[0]
            torch.testing.assert_close(together[row][tokens.attention[row]], alone, atol=1e-4, rtol=1e-4)


def test_token_strings_keep_their_spaces(model: LanguageModel) -> None:
    ids = model.tokenizer(TEXT, add_special_tokens=False).input_ids
    assert "".join(model.token_strings(ids)) == TEXT
    assert len(model.token_strings(ids)) == len(ids)


def test_end_tokens_come_from_the_generation_config(
    gpt2: LanguageModel, qwen2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpt2.end_token_ids == [gpt2.tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    assert qwen2.end_token_ids == [qwen2.tokenizer.convert_tokens_to_ids("<|im_end|>")]
    monkeypatch.setattr(qwen2.model.generation_config, "eos_token_id", [1, 2])
    assert qwen2.end_token_ids == [1, 2]


# ---- hook points ----


@pytest.fixture(scope="module")
def bridges(gpt2_folder: Path, qwen2_folder: Path) -> dict[str, Any]:
    return {f.name: TransformerBridge.boot_transformers(str(f)) for f in (gpt2_folder, qwen2_folder)}


@pytest.mark.parametrize("hook_name", HOOKS)
@torch.no_grad()
def test_activations_equal_those_of_transformer_lens(
    hook_name: str, model: LanguageModel, bridges: dict[str, Any]
) -> None:
    tokens = model.pad([model.tokenise(TEXT)])
    _, cache = bridges[Path(model.name).name].run_with_cache(tokens.ids, names_filter=[hook_name])
    expected = cache[hook_name]
    ours = model.activations(tokens, hook_name)
    assert ours.shape == (1, tokens.ids.shape[1], model.d_model)
    torch.testing.assert_close(ours, expected.reshape(ours.shape), atol=1e-5, rtol=1e-5)  # hook_z: heads side by side


@pytest.mark.parametrize(
    ("name", "hook_name", "place"),
    [
        ("gpt2", RESID_POST, ("transformer.h.1", "hook_out")),
        ("gpt2", "blocks.0.hook_resid_pre", ("transformer.h.0", "hook_in")),
        ("gpt2", "blocks.1.attn.hook_z", ("transformer.h.1.attn.c_proj", "hook_in")),
        ("qwen2", RESID_POST, ("model.layers.1", "hook_out")),
        ("qwen2", "blocks.2.hook_mlp_out", ("model.layers.2.mlp", "hook_out")),
        ("qwen2", "blocks.1.attn.hook_z", ("model.layers.1.self_attn.o_proj", "hook_in")),
    ],
)
def test_hook_site_names_the_native_module(
    name: str, hook_name: str, place: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    site = request.getfixturevalue(name).hook_site(hook_name)
    assert (site.module_path, site.side) == place


@pytest.mark.parametrize(
    "hook_name",
    [
        "blocks.3.hook_resid_post",
        "nonsense",
        "",
        "blocks.1.ln1.hook_normalized",  # inside a module
        "blocks.1.hook_resid_mid",  # an edit of one module's input would miss the residual branch
    ],
)
def test_unknown_hook_is_named_with_those_there_are(hook_name: str, model: LanguageModel) -> None:
    with pytest.raises(UnknownHookError, match=f"^no hook point '{hook_name}' in .*; it has blocks.0 to "):
        model.hook_site(hook_name)


def test_query_of_a_fused_projection_is_no_hook_point(gpt2: LanguageModel) -> None:
    with pytest.raises(UnknownHookError, match=r"no hook point 'blocks.1.attn.hook_q'"):
        gpt2.activations(gpt2.pad([gpt2.tokenise(TEXT)]), "blocks.1.attn.hook_q")


# ---- interventions ----


def logits(model: LanguageModel, text: str = TEXT) -> Tensor:
    return model.forward(model.pad([model.tokenise(text)]))


def add(value: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x + value * torch.arange(x.shape[-1])


@pytest.mark.parametrize("hook_name", HOOKS)
def test_intervention_equals_a_native_hook(hook_name: str, model: LanguageModel) -> None:
    site = model.hook_site(hook_name)
    module = model.model.get_submodule(site.module_path)
    if site.side == "hook_in":
        native = module.register_forward_pre_hook(lambda _module, args: (add(0.5)(args[0]), *args[1:]))
    else:
        native = module.register_forward_hook(lambda _module, _args, out: add(0.5)(out))
    expected = logits(model)
    native.remove()
    with model.intervene({hook_name: add(0.5)}):
        changed = logits(model)
    assert torch.equal(changed, expected)
    assert not torch.allclose(changed, logits(model))


def test_intervention_that_returns_nothing_only_looks(model: LanguageModel) -> None:
    before, seen = logits(model), []
    with model.intervene({name: seen.append for name in HOOKS}):
        assert torch.equal(logits(model), before)
    assert len(seen) == len(HOOKS)


def test_intervention_is_gone_after_an_exception(model: LanguageModel) -> None:
    before = logits(model)

    def broken(_x: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), model.intervene({RESID_POST: broken}):
        logits(model)
    assert torch.equal(logits(model), before)


def test_unknown_hook_leaves_no_intervention_behind(model: LanguageModel) -> None:
    before = logits(model)
    with pytest.raises(UnknownHookError), model.intervene({RESID_POST: add(1), "nonsense": add(1)}):
        pass
    assert torch.equal(logits(model), before)


def test_nested_interventions_add_up_and_the_inner_one_wins_at_the_same_point(model: LanguageModel) -> None:
    plain = logits(model)
    with model.intervene({RESID_POST: add(1)}):
        outer = logits(model)
        with model.intervene({"blocks.0.hook_resid_pre": add(2)}):
            both = logits(model)
        with model.intervene({RESID_POST: add(3)}):
            inner = logits(model)
        assert torch.equal(logits(model), outer)
    with model.intervene({RESID_POST: add(1), "blocks.0.hook_resid_pre": add(2)}):
        assert torch.equal(logits(model), both)
    with model.intervene({RESID_POST: add(3)}):
        assert torch.equal(logits(model), inner)
    assert torch.equal(logits(model), plain)
    assert len({t.sum().item() for t in (plain, outer, both, inner)}) == 4


def test_threads_see_only_their_own_intervention(model: LanguageModel) -> None:
    strengths = [0.0, 0.5, 1.0, 2.0]
    expected = []
    for strength in strengths:
        with model.intervene({RESID_POST: add(strength)}):
            expected.append(logits(model))
    assert len({t.sum().item() for t in expected}) == len(strengths)
    together = threading.Barrier(len(strengths) + 1)
    wrong: list[int] = []

    def work(number: int) -> None:
        with model.intervene({RESID_POST: add(strengths[number])}):
            together.wait()  # every thread's intervention is in place
            for _ in range(5):
                if not torch.equal(logits(model), expected[number]):
                    wrong.append(number)
            together.wait()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(strengths))]
    for thread in threads:
        thread.start()
    together.wait()
    unsteered = logits(model)  # this thread asked for nothing
    together.wait()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert torch.equal(unsteered, expected[0])


def test_two_models_with_the_same_hook_names_do_not_mix(gpt2: LanguageModel, qwen2: LanguageModel) -> None:
    before = logits(qwen2)
    with gpt2.intervene({RESID_POST: add(5)}):
        assert torch.equal(logits(qwen2), before)


def test_forward_pass_stops_at_the_hook_point(model: LanguageModel) -> None:
    after = model.model.get_submodule(model.hook_site("blocks.2.hook_resid_post").module_path)
    calls: list[int] = []
    handle = after.register_forward_pre_hook(lambda _module, _args: calls.append(1))
    tokens = model.pad([model.tokenise(TEXT)])
    model.activations(tokens, RESID_POST)
    assert calls == []
    model.forward(tokens)
    handle.remove()
    assert calls == [1]


def test_cached_forward_equals_the_whole_one(model: LanguageModel) -> None:
    tokens = model.pad([model.tokenise(TEXT)])
    whole, cache = model.forward(tokens), model.new_cache()
    n = tokens.ids.shape[1]
    steps = []
    for i in range(n):
        new = type(tokens)(tokens.ids[:, i : i + 1], tokens.attention[:, : i + 1], tokens.special[:, i : i + 1])
        steps.append(model.forward(new, cache, position_ids=torch.tensor([[i]]), last_only=True))
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-4, rtol=1e-4)


def test_unembed_multiplies_by_the_unembedding(model: LanguageModel) -> None:
    directions = torch.eye(model.d_model)[:3]
    assert torch.equal(model.unembed(directions), model.model.lm_head.weight.T[:3])


# ---- loading ----


def load(folder: Path | str, **more: Any) -> LanguageModel:
    return load_language_model(Setup(name="x", model=str(folder), sae="none", **{"device": "cpu", **more}))


def test_load_reads_sizes_and_dtype(gpt2_folder: Path) -> None:
    model = load(gpt2_folder, dtype="bfloat16")
    assert (model.n_layers, model.d_model, model.n_context) == (3, 32, 256)
    assert model.model.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert not model.model.training


@pytest.fixture
def copied_folder(gpt2_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(gpt2_folder, tmp_path / "copy")


def test_load_refuses_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"is not a model folder: it has no config\.json"):
        load(tmp_path)


def test_load_refuses_a_folder_without_tokenizer(copied_folder: Path) -> None:
    for file in copied_folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelFolderError, match=r"has no tokenizer .*; save the tokenizer beside the weights"):
        load(copied_folder)


def test_load_refuses_pickled_weights(copied_folder: Path) -> None:
    weights = copied_folder / "model.safetensors"
    torch.save(load_file(weights), copied_folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UnsafeWeightsError, match=r"has no safetensors weights; pickled ones .* convert them first"):
        load(copied_folder)


def test_load_refuses_weights_that_lack_a_tensor(copied_folder: Path) -> None:
    # transformers would fill it with random values and carry on
    weights = copied_folder / "model.safetensors"
    lacking = {name: tensor for name, tensor in load_file(weights).items() if "h.1.mlp.c_fc.weight" not in name}
    save_file(lacking, weights, metadata={"format": "pt"})
    with pytest.raises(ModelFolderError, match=r"lack transformer\.h\.1\.mlp\.c_fc\.weight \(1 tensors in all\)"):
        load(copied_folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", "{}"),
        ("config.json", json.dumps({"model_type": "perceptron"})),
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("model.safetensors", "cut short"),
    ],
)
def test_load_names_a_damaged_folder_in_one_line(file: str, content: str, copied_folder: Path) -> None:
    (copied_folder / file).write_text(content)
    with pytest.raises(ModelFolderError, match=f"^cannot load the model in '{copied_folder}': ") as caught:
        load(copied_folder)
    assert "\n" not in str(caught.value)


def test_load_of_a_hub_name_without_a_hub_says_so() -> None:
    with pytest.raises(HubError, match=r"cannot fetch 'nobody/nothing' .*; connect, or give a folder as `model`"):
        load("nobody/nothing")


def test_load_refuses_a_device_that_is_not_there(gpt2_folder: Path) -> None:
    with pytest.raises(SetupConfigError, match="device 'gpu' is not available on this machine; use 'cpu' or 'auto'"):
        load(gpt2_folder, device="gpu")


def test_loaded_tokenizer_is_the_folders(gpt2: LanguageModel, gpt2_folder: Path) -> None:
    assert gpt2.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(gpt2_folder).get_vocab()
