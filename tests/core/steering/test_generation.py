"""Steered decoding: `none` is transformers' own, cached equals uncached, batches equal single prompts."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.errors import EditError, ModelFolderError, PromptTooLongError, UsageError
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder
from core.settings import GenerationSettings
from core.steering.code_edits import Edit
from core.steering.edits import Vector, add_neurons, make_edit
from core.steering.generated import Generation
from core.steering.generation import Generator
from core.steering.placement import DEFAULT_POSITIONS, PlacedEdit, placed_edit
from core.steering.settings import Positions
from tests.fixtures.autoencoders import HOOK_LAYER, HOOK_NAME
from tests.fixtures.edits import some_scores

PROMPT = "My heart is broken, so I should"
PROMPTS = (PROMPT, "Rain", "The old ship left the harbour before the storm and")
GREEDY = GenerationSettings(max_new_tokens=10, greedy=True)
EDIT_NAMES = ("sae", "clamp", "swap", "matched", "weight", "swap-keep-error", "add", "vector")


@pytest.fixture(params=["gpt2", "qwen2"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    loaded: LanguageModel = request.getfixturevalue(request.param)
    return loaded


def edit_of(name: str, sae: SparseAutoencoder) -> Edit:
    options: dict[str, Any] = {"keep_error": name.endswith("keep-error"), "matched_count": name == "matched"}
    kind: Any = "swap" if name in ("matched", "swap-keep-error") else name
    edit = make_edit(
        kind,
        sae,
        score=some_scores(sae),
        reference_max=torch.linspace(0.3, 0.6, sae.d_sae),
        alphas={3: 4.0, 7: -2.0},
        direction=torch.linspace(-1, 1, sae.d_in),
        **options,
    )
    assert edit is not None
    return edit


def generate(
    model: LanguageModel,
    prompts: tuple[str, ...] = (PROMPT,),
    edit: Edit | None = None,
    settings: GenerationSettings = GREEDY,
    positions: Positions | None = None,
    **more: Any,
) -> list[Generation]:
    return Generator(model, prompts, placed_edit(edit, positions), settings, **more).finish()


def ids_of(generations: list[Generation]) -> list[list[int]]:
    return [generation.ids for generation in generations]


# ---- without an edit ----


def of_transformers(model: LanguageModel, prompt: str, n: int, seed: int = 0, **decoding: Any) -> list[int]:
    """New tokens of transformers' own generate, the ending one left out."""
    ids = torch.tensor([model.tokenise(prompt, generate=True).ids])
    torch.manual_seed(seed)
    out = model.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, pad_token_id=model.end_token_ids[0], **decoding
    )
    new: list[int] = out[0, ids.shape[1] :].tolist()
    return new[:-1] if new[-1] in model.end_token_ids else new


def test_none_equals_greedy_generate_of_transformers(model: LanguageModel) -> None:
    expected = [of_transformers(model, prompt, 10, do_sample=False) for prompt in PROMPTS]
    assert ids_of(generate(model, PROMPTS)) == expected


@pytest.mark.parametrize(("top_k", "temperature"), [(5, 1.0), (20, 1.7), (100_000, 0.8)])
def test_none_equals_seeded_sampling_of_transformers(top_k: int, temperature: float, model: LanguageModel) -> None:
    settings = GenerationSettings(max_new_tokens=12, top_k=top_k, temperature=temperature, seed=3)
    decoding = {"do_sample": True, "top_k": min(top_k, model.model.config.vocab_size), "temperature": temperature}
    # each row has its own generator: row i is seeded with seed + i
    expected = [of_transformers(model, prompt, 12, seed=3 + i, **decoding) for i, prompt in enumerate(PROMPTS)]
    assert ids_of(generate(model, PROMPTS, settings=settings)) == expected


def test_top_1_is_greedy(model: LanguageModel) -> None:
    assert ids_of(generate(model, settings=GenerationSettings(max_new_tokens=10, top_k=1))) == ids_of(generate(model))


def test_same_seed_gives_the_same_text_and_another_seed_another(model: LanguageModel) -> None:
    first, again, other = (
        generate(model, settings=GenerationSettings(max_new_tokens=16, seed=seed))[0] for seed in (1, 1, 2)
    )
    assert first.text == again.text
    assert first.text != other.text


# ---- under edits ----


def places(positions: Positions, special: list[bool], n_new: int) -> list[bool]:
    """Which tokens of a prompt (of one message, where it is a chat's) and its continuation are edited."""
    made = [False] * len(special) + [True] * n_new
    special = [*special, *[False] * n_new]
    own = [not s and not m for s, m in zip(special, made, strict=True)]
    return {
        "all": [True] * len(special),
        "content": [not s for s in special],
        "generated": made,
        "prompt": own,
        "special": special,
        "user": own,
        "assistant": made,
    }[positions]


def uncached(model: LanguageModel, edit: Edit, positions: Positions, n: int) -> tuple[list[int], int]:
    """Greedy decoding that reads the whole text again for every token; the new tokens, and how many are edited."""
    prompt = model.tokenise(PROMPT, generate=True)
    ids = list(prompt.ids)
    for number in range(n):
        edited = places(positions, prompt.special, number)

        def intervention(x: Tensor, edited: list[bool] = edited) -> Tensor:
            out = x.clone()
            for place in np.flatnonzero(edited):
                out[:, place] = edit.apply(x[:, place])
            return out

        with model.intervene({edit.hook_name: intervention}), torch.no_grad():
            logits = model.model(torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt.ids) :], sum(places(positions, prompt.special, n))


SAES = ("gpt2-topk", "gpt2-gated", "qwen2-jumprelu", "qwen2-standard")
CASES = [(sae, name, None) for sae in SAES for name in EDIT_NAMES] + [
    (sae, "swap", positions)
    for sae in ("gpt2-topk", "qwen2-jumprelu")
    for positions in ("all", "generated", "prompt", "special", "user", "assistant")
    if sae.startswith("qwen2") or positions not in ("user", "assistant")
]


@pytest.mark.parametrize(("sae_name", "name", "positions"), CASES)
def test_cached_decoding_equals_uncached(
    name: str,
    positions: Positions | None,
    sae_name: str,
    request: pytest.FixtureRequest,
    saes: Mapping[str, SparseAutoencoder],
) -> None:
    model = request.getfixturevalue(sae_name.split("-")[0])
    edit = edit_of(name, saes[sae_name])
    ids, n_edited = uncached(model, edit, positions or DEFAULT_POSITIONS[edit.name], 8)
    settings = GenerationSettings(max_new_tokens=8, greedy=True)
    (generation,) = generate(model, edit=edit, settings=settings, positions=positions)
    assert generation.ids == ids
    assert generation.positions_edited == n_edited


def test_edits_change_the_text(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    texts = {generate(gpt2, edit=edit_of(name, saes["gpt2-topk"]))[0].text for name in EDIT_NAMES}
    assert len({generate(gpt2)[0].text, *texts}) >= 5


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("name", [None, "swap", "clamp"])
def test_batch_equals_one_prompt_at_a_time(
    name: str | None, greedy: bool, gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    edit = None if name is None else edit_of(name, saes["gpt2-topk"])
    together = generate(gpt2, PROMPTS, edit, GenerationSettings(max_new_tokens=10, greedy=greedy, seed=4))
    for row, prompt in enumerate(PROMPTS):
        settings = GenerationSettings(max_new_tokens=10, greedy=greedy, seed=4 + row)
        (alone,) = generate(gpt2, (prompt,), edit, settings)
        assert (alone.ids, alone.positions_edited) == (together[row].ids, together[row].positions_edited)


def test_interleaved_generators_do_not_disturb_each_other(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    edits = [None, edit_of("swap", saes["gpt2-topk"]), edit_of("clamp", saes["gpt2-topk"])]
    expected = [ids_of(generate(gpt2, edit=edit)) for edit in edits]
    generators = [Generator(gpt2, (PROMPT,), placed_edit(edit), GREEDY) for edit in edits]
    for _ in zip(*generators, strict=True):
        pass
    assert [ids_of(generator.generations) for generator in generators] == expected


# ---- the end, the stream, the limits ----


def test_end_token_stops_its_row_only(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ids_of(generate(model, PROMPTS))
    end = next(i for i in plain[0][1:] if i != plain[0][0])  # an early token of the first row
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", [end])
    expected = [ids[: ids.index(end)] if end in ids else ids for ids in plain]
    generations = generate(model, PROMPTS)
    assert ids_of(generations) == expected
    assert len({len(ids) for ids in expected}) > 1
    assert [len(g.tokens) for g in generations] == [len(g.figures) for g in generations] == list(map(len, expected))


def test_prompt_that_ends_at_once_has_an_empty_text(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", [generate(model)[0].ids[0]])
    (generation,) = generate(model)
    assert (generation.ids, generation.text, generation.tokens, generation.figures) == ([], "", [], [])
    assert generation.positions_run == len(generation.prompt_tokens.ids)
    assert list(Generator(model, (PROMPT,), [], GREEDY)) == []


def test_stream_yields_growing_texts(model: LanguageModel) -> None:
    lengths, texts = [], []
    for rows in Generator(model, PROMPTS, [], GREEDY):
        lengths.append([len(row.ids) for row in rows])
        texts.append([row.text.rstrip("�") for row in rows])  # a character may need several tokens
    assert lengths == [[n] * 3 for n in range(1, 11)]
    for earlier, later in pairwise(texts):
        assert all(b.startswith(a) for a, b in zip(earlier, later, strict=True))
    final = generate(model, PROMPTS)
    assert [row.text for row in final] == [model.tokenizer.decode(row.ids) for row in final]
    assert [row.tokens for row in final] == [model.token_strings(row.ids) for row in final]


def test_stream_can_be_left_at_any_token(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    before = ids_of(generate(gpt2))
    stream = iter(Generator(gpt2, (PROMPT,), placed_edit(edit_of("clamp", saes["gpt2-topk"])), GREEDY))
    next(stream)
    assert ids_of(generate(gpt2)) == before  # no edit is in place between two tokens
    del stream
    assert ids_of(generate(gpt2)) == before


def test_generator_starts_over_when_iterated_again(gpt2: LanguageModel) -> None:
    generator = Generator(gpt2, (PROMPT,), [], GREEDY)
    (growing,) = generator.generations
    next(iter(generator))
    for _ in range(2):
        assert ids_of(generator.finish()) == ids_of(generate(gpt2))
    assert generator.generations[0] is growing  # a page may hold on to it


def test_prompt_that_leaves_no_room_is_refused(gpt2: LanguageModel) -> None:
    n = len(gpt2.tokenise(PROMPT).ids)
    fitting = GenerationSettings(max_new_tokens=gpt2.n_context - n, greedy=True)
    Generator(gpt2, (PROMPT,), [], fitting)
    with pytest.raises(PromptTooLongError, match=rf"^the prompt's {n} tokens and {257 - n} new ones exceed .* of 256;"):
        Generator(gpt2, (PROMPT,), [], GenerationSettings(max_new_tokens=257 - n))


@pytest.mark.parametrize("prompt", ["", "  \n\t"])
def test_empty_prompt_is_refused(prompt: str, gpt2: LanguageModel) -> None:
    with pytest.raises(UsageError, match="the prompt is empty; type at least one word"):
        Generator(gpt2, (PROMPT, prompt), [], GREEDY)


# ---- what is counted and measured ----


@pytest.mark.parametrize("positions", ["all", "content", "generated", "prompt", "special"])
def test_positions_are_counted(
    positions: Positions, model: LanguageModel, request: pytest.FixtureRequest, saes: Mapping[str, SparseAutoencoder]
) -> None:
    sae = saes[f"{request.node.callspec.params['model']}-topk"]
    for generation in generate(model, PROMPTS, edit_of("swap", sae), positions=positions):
        special, n_new = generation.prompt_tokens.special, len(generation.ids)
        assert generation.positions_run == len(special) + n_new
        assert generation.positions_edited == sum(places(positions, special, n_new))


def test_position_that_two_edits_touch_counts_once(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    placed = [
        PlacedEdit(edit_of("swap", saes["gpt2-topk"]), "content"),
        PlacedEdit(edit_of("add", saes["gpt2-topk"]), "generated"),
    ]
    (generation,) = Generator(gpt2, (PROMPT,), placed, GREEDY).finish()
    assert generation.edit == "swap+add"
    assert generation.positions_edited == generation.positions_run - 1  # all but the beginning of the text


def test_figures_are_those_of_the_scored_hook_point(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    sae = saes["gpt2-topk"]
    later = edit_of("swap", replace(sae, hook_name="blocks.2.hook_resid_post"))
    placed = [*placed_edit(edit_of("swap", sae)), *placed_edit(later)]
    together = Generator(gpt2, (PROMPT,), placed, GREEDY, score=some_scores(sae), score_hook=HOOK_NAME).finish()[0]
    first = Generator(gpt2, (PROMPT,), placed[:1], GREEDY, score=some_scores(sae)).finish()[0]
    assert together.figures[0] == first.figures[0]
    assert together.ids != first.ids


def test_prefix_is_read_before_the_prompt_and_kept_apart(model: LanguageModel) -> None:
    prefixed = Generator(model, (PROMPT, PROMPT), [], GREEDY, seeds=[0, 0], prefixes=["", "Write about law: "]).finish()
    assert ids_of(prefixed[:1]) == ids_of(generate(model))
    assert ids_of(prefixed[1:]) == ids_of(generate(model, ("Write about law: " + PROMPT,)))
    assert [(g.prefix, g.prompt) for g in prefixed] == [("", PROMPT), ("Write about law: ", PROMPT)]


def test_prompt_goes_through_the_chat_template_where_asked(qwen2: LanguageModel, instruct: LanguageModel) -> None:
    def texts(model: LanguageModel, chat: bool | None) -> list[list[int]]:
        return ids_of(generate(model, PROMPTS, settings=replace(GREEDY, chat=chat)))

    assert texts(instruct, True) == texts(qwen2, True) == texts(qwen2, None)
    assert texts(qwen2, False) == texts(instruct, False) == texts(instruct, None)
    assert texts(qwen2, True) != texts(qwen2, False)


def test_generation_says_whether_it_is_a_chat(instruct: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    edit, chat = edit_of("sae", saes["qwen2-topk"]), replace(GREEDY, chat=True)
    (asked,) = generate(instruct, edit=edit, settings=chat, positions="user")  # known in a chat alone
    assert asked.chat is True
    assert asked.prompt_tokens == instruct.tokenise(PROMPT, generate=True, chat=True)
    assert asked.positions_edited == len(instruct.tokenise(PROMPT).ids) - 1
    assert generate(instruct)[0].chat is None
    with pytest.raises(EditError, match="positions 'user' need a chat"):
        generate(instruct, edit=edit, positions="user")


def test_chat_is_refused_where_there_is_no_template(gpt2: LanguageModel) -> None:
    with pytest.raises(ModelFolderError, match="has no chat template"):
        generate(gpt2, settings=replace(GREEDY, chat=True))


def test_row_that_overflows_ends_alone_where_asked(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    sae = saes["gpt2-topk"]
    huge = PlacedEdit(add_neurons(sae, {3: 1e38}), "all", rows=torch.tensor([False, True]))
    with pytest.raises(EditError, match="the edit is too strong"):
        Generator(gpt2, [PROMPT] * 2, [huge], GREEDY, seeds=[0, 0]).finish()
    plain, broken = Generator(gpt2, [PROMPT] * 2, [huge], GREEDY, seeds=[0, 0], keep_going=True).finish()
    assert plain.ids == generate(gpt2)[0].ids
    assert not plain.problem
    assert "the edit is too strong" in broken.problem
    assert broken.ids == []


def test_without_an_edit_nothing_is_edited_or_measured(gpt2: LanguageModel) -> None:
    (generation,) = generate(gpt2)
    assert generation.positions_edited == 0
    assert generation.positions_run == len(generation.prompt_tokens.ids) + len(generation.ids) - 1  # last: not read
    assert {figures.contamination for figures in generation.figures} == {None}
    assert {figures.top_neurons for figures in generation.figures} == {()}


def test_without_measuring_the_text_is_the_same(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    edit = edit_of("swap", saes["gpt2-topk"])
    (measured,), (plain,) = generate(gpt2, edit=edit), generate(gpt2, edit=edit, measure=False)
    assert plain.ids == measured.ids
    assert plain.positions_edited == measured.positions_edited - 1  # the last token was read only to be measured


@pytest.mark.parametrize("sae_name", ["gpt2-topk", "gpt2-abstopk", "qwen2-jumprelu"])
@pytest.mark.parametrize("name", ["sae", "clamp", "swap", "weight", "swap-keep-error"])
def test_figures_equal_a_direct_computation(
    name: str, sae_name: str, request: pytest.FixtureRequest, saes: Mapping[str, SparseAutoencoder]
) -> None:
    model, sae = request.getfixturevalue(sae_name.split("-")[0]), saes[sae_name]
    edit, score = edit_of(name, sae), some_scores(sae)
    (generation,) = generate(model, edit=edit, score=score)

    # an edit changes what later blocks read, so the stream at the hook point is the unsteered one of the same tokens
    assert sae.hook_name == HOOK_NAME
    ids = torch.tensor([[*generation.prompt_tokens.ids, *generation.ids]])
    with torch.no_grad():
        stream = model.model(ids, output_hidden_states=True).hidden_states[HOOK_LAYER + 1]
    x = stream[0, -len(generation.ids) :]
    pre = sae.pre_activations(x)
    a, x_sae = sae.activate(pre), sae.decode(sae.activate(pre), pre)
    edited_a = edit.edited_code(pre, sae.select(pre)).dense(sae.d_sae)
    edited_x = edit.apply(x)

    for t, figures in enumerate(generation.figures):
        size = edited_a[t].abs()
        far = float((size * (1 - score)).sum())
        assert figures.contamination == pytest.approx(far, rel=1e-3)
        assert figures.contamination_share == pytest.approx(far / (float(size.sum()) or 1.0), rel=1e-3)
        delta = (edited_x[t] - x[t]).pow(2).mean() - (x_sae[t] - x[t]).pow(2).mean()
        assert figures.reconstruction_delta == pytest.approx(float(delta), abs=1e-4, rel=1e-3)
        assert figures.neurons_changed == int((edited_a[t] != a[t]).sum())
        strongest = sorted(edited_a[t].nonzero()[:, 0].tolist(), key=lambda i, t=t: -abs(edited_a[t, i]))[:5]
        assert [neuron for neuron, _ in figures.top_neurons] == strongest
        values = [value for _, value in figures.top_neurons]
        assert values == pytest.approx([float(edited_a[t, i]) for i in strongest], rel=1e-3)


def test_tokens_that_are_not_edited_have_no_figures(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    edit = edit_of("swap", saes["gpt2-topk"])
    (generation,) = generate(gpt2, edit=edit, positions="prompt", score=some_scores(edit.sae))
    assert {figures.neurons_changed for figures in generation.figures} == {None}
    assert len(generation.figures) == len(generation.ids)


# ---- different edits in one batch ----


def test_rows_of_one_batch_are_edited_each_its_own_way(
    model: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    sae = saes[f"{'qwen2' if model.chat else 'gpt2'}-topk"]
    edits = [None, add_neurons(sae, {3: 40.0}), add_neurons(sae, {3: 80.0, 5: -20.0}), edit_of("swap", sae)]
    settings = GenerationSettings(max_new_tokens=8, seed=4)
    alone = [generate(model, (PROMPT,), edit, settings)[0] for edit in edits]
    rows = torch.eye(len(edits), dtype=torch.bool)
    placed = [PlacedEdit(p.edit, p.positions, rows[i]) for i, edit in enumerate(edits) for p in placed_edit(edit)]
    together = Generator(model, [PROMPT] * len(edits), placed, settings, seeds=[4] * len(edits)).finish()
    assert ids_of(together) == ids_of(alone)
    assert len({tuple(ids) for ids in ids_of(alone)}) == len(edits)  # the edits do differ
    assert [g.edit for g in together] == ["none", "add", "add", "swap"]
    assert [g.positions_edited for g in together] == [g.positions_edited for g in alone]
    assert [g.figures for g in together[:3]] == [g.figures for g in alone[:3]]


# ---- confidence ----


@pytest.mark.parametrize("positions", [None, "all"])
def test_confidence_equals_a_loop_over_tokens(gpt2: LanguageModel, positions: Positions | None) -> None:
    vector = Vector(at="blocks.1.hook_resid_post", direction=torch.linspace(-1, 1, 32), alpha=4.0)
    edit = None if positions is None else vector
    for made in generate(gpt2, PROMPTS, edit, GenerationSettings(max_new_tokens=6, seed=1), positions):
        sure = []
        for i in range(len(made.ids)):
            with gpt2.intervene({vector.at: vector.apply} if edit else {}), torch.no_grad():
                logits = gpt2.model(torch.tensor([[*made.prompt_tokens.ids, *made.ids[:i]]])).logits[0, -1]
            sure.append(float(logits.softmax(-1).max()))
        assert made.confidence == pytest.approx(math.prod(sure) ** (1 / len(sure)), rel=1e-3)


def test_confidence_of_no_token_is_not_defined(gpt2: LanguageModel) -> None:
    (made,) = generate(gpt2)
    made.restart()
    assert math.isnan(made.confidence)
