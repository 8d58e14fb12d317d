"""Edits in a running model: at the positions asked for, in order, gone afterwards, and each thread's own."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core.errors import EditError
from core.models.codes import Encoding
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder
from core.models.tokens import TokenisedPrompt, Tokens
from core.settings import GenerationSettings
from core.steering.code_edits import Edit, Reconstruct, Watch
from core.steering.generation import Generator
from core.steering.placement import PlacedEdit, Recorder, placed_edit, steered
from core.steering.selection import Reach
from core.steering.settings import Positions
from tests.fixtures.autoencoders import HOOK_NAME as HOOK
from tests.fixtures.edits import added_directions, every_edit, some_scores

NAMES = ("gpt2-standard", "gpt2-jumprelu", "gpt2-topk", "gpt2-gated")


@pytest.fixture
def tokens(gpt2: LanguageModel) -> Tokens:
    """Two prompts, the second padded on the left by 3: 1 special and 7 or 4 ordinary tokens."""
    prompts = [gpt2.tokenise("The surgeon mends a heart.", max_length=n) for n in (8, 5)]
    assert [len(prompt.ids) for prompt in prompts] == [8, 5]
    return gpt2.pad(prompts, side="left")


GENERATED = torch.tensor([[False] * 6 + [True] * 2, [False] * 6 + [True] * 2])


def run(model: LanguageModel, tokens: Tokens, placed: list[PlacedEdit]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits, the stream after the hook point, and the masks of edited tokens."""
    after: list[Tensor] = []
    recorder = Recorder()
    places = {"special": tokens.special, "generated": GENERATED, "attention": tokens.attention, "roles": tokens.roles}
    with (
        steered(model, placed, recorder=recorder, **places),
        model.intervene({"blocks.2.hook_resid_pre": after.append}),
    ):
        logits = model.forward(tokens)
    return logits, after[0], recorder.edited


@pytest.mark.parametrize(
    ("positions", "first", "second"),  # tokens 0 to 7; the second prompt begins at 3
    [
        ("all", range(8), range(3, 8)),
        ("content", range(1, 8), range(4, 8)),
        ("generated", range(6, 8), range(6, 8)),
        ("prompt", range(1, 6), range(4, 6)),
        ("special", range(1), range(3, 4)),
    ],
)
def test_only_the_positions_asked_for_are_edited(
    positions: Positions,
    first: range,
    second: range,
    gpt2: LanguageModel,
    saes: Mapping[str, SparseAutoencoder],
    tokens: Tokens,
) -> None:
    edit = Reconstruct(sae=saes["gpt2-topk"])
    _, before, _ = run(gpt2, tokens, [])
    _, after, masks = run(gpt2, tokens, [PlacedEdit(edit, positions)])
    expected = torch.zeros(2, 8, dtype=torch.bool)
    expected[0, list(first)] = expected[1, list(second)] = True
    assert torch.equal(masks[0], expected)
    assert torch.equal((after != before).any(-1), expected)
    assert torch.equal(after[expected], edit.apply(before[expected]))


def test_first_position_of_an_attention_sink_is_left_alone(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder], tokens: Tokens
) -> None:
    sae = replace(saes["gpt2-topk"], skip_first=True)
    _, before, _ = run(gpt2, tokens, [])
    _, after, masks = run(gpt2, tokens, [PlacedEdit(Reconstruct(sae=sae), "all")])
    expected = torch.zeros(2, 8, dtype=torch.bool)
    expected[0, 1:] = expected[1, 4:] = True  # of the padded prompt, too, all but its own first
    assert torch.equal(masks[0], expected)
    assert torch.equal((after != before).any(-1), expected)
    made = Generator(
        gpt2, ["The law"], placed_edit(Reconstruct(sae=sae)), GenerationSettings(max_new_tokens=3)
    ).finish()
    assert made[0].positions_edited == made[0].positions_run - 1  # later tokens are no first ones


def test_edit_of_some_rows_leaves_the_others(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder], tokens: Tokens
) -> None:
    placed = PlacedEdit(Reconstruct(sae=saes["gpt2-topk"]), "all", rows=torch.tensor([False, True]))
    _, before, _ = run(gpt2, tokens, [])
    _, after, masks = run(gpt2, tokens, [placed])
    assert torch.equal(after[0], before[0])
    assert [int(mask.sum()) for mask in masks] == [5]


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        ("first", "no positions 'first'; there are all, content, generated, prompt, special, user, assistant"),
        ("user", "positions 'user' need a chat, and this prompt is plain text; generate as a chat"),
        ("assistant", "positions 'assistant' need a chat"),
    ],
)
def test_positions_that_there_are_not_are_refused(
    positions: Positions, words: str, gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder], tokens: Tokens
) -> None:
    with pytest.raises(EditError, match=words):
        run(gpt2, tokens, [PlacedEdit(Reconstruct(sae=saes["gpt2-topk"]), positions)])


def test_messages_of_a_role_are_edited_alone(qwen2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    said = {"system": "Be brief.", "user": "user: what ails the heart?", "assistant": "The assistant cannot say."}
    prompt = qwen2.tokenise_chat([{"role": role, "content": content} for role, content in said.items()])
    tokens = qwen2.pad([prompt])
    edit = Reconstruct(sae=saes["qwen2-topk"])
    nothing = torch.zeros_like(tokens.special)
    for positions in ("user", "assistant"):
        recorder = Recorder()
        with steered(
            qwen2,
            [PlacedEdit(edit, positions)],
            special=tokens.special,
            generated=nothing,
            attention=tokens.attention,
            roles=tokens.roles,
            recorder=recorder,
        ):
            qwen2.forward(tokens)
        assert qwen2.tokenizer.decode(tokens.ids[recorder.edited[0]]) == said[positions]


def test_edit_acts_only_where_the_topic_is_within_reach(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder], tokens: Tokens
) -> None:
    sae = saes["gpt2-topk"]
    score = some_scores(sae) ** 8  # few are high
    swap = every_edit(sae, some_scores(sae))["swap"]
    _, before, _ = run(gpt2, tokens, [])
    counts = []
    for least in (0.0, 0.5, 0.7, 0.9, 1.0):
        edit = replace(swap, reach=Reach(score, least))
        _, after, masks = run(gpt2, tokens, [PlacedEdit(edit, "content")])
        expected = tokens.attention & ~tokens.special
        expected[expected.clone()] = edit.reach.holds(sae, before[expected])
        edited = masks[0] if masks else torch.zeros_like(expected)
        assert torch.equal(edited, expected)
        assert torch.equal((after != before).any(-1), expected)
        assert torch.equal(after[expected], swap.apply(before[expected]))
        counts.append(int(expected.sum()))
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (11, 0)
    assert any(0 < n < 11 for n in counts)


def test_edits_at_one_hook_point_act_in_order_and_at_several_together(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder], tokens: Tokens
) -> None:
    sae = saes["gpt2-topk"]
    swap, reconstruct = every_edit(sae, some_scores(sae))["swap"], Reconstruct(sae=sae)
    _, before, _ = run(gpt2, tokens, [])
    _, after, _ = run(gpt2, tokens, [PlacedEdit(swap, "all"), PlacedEdit(reconstruct, "all")])
    own = tokens.attention
    assert torch.equal(after[own], reconstruct.apply(swap.apply(before[own])))

    early = Reconstruct(sae=replace(sae, hook_name="blocks.0.hook_resid_post"))
    _, both, masks = run(gpt2, tokens, [PlacedEdit(early, "all"), PlacedEdit(swap, "all")])
    _, early_only, _ = run(gpt2, tokens, [PlacedEdit(early, "all")])
    assert torch.equal(both[own], swap.apply(early_only[own]))
    assert len(masks) == 2


def test_edit_does_not_write_into_the_models_own_stream(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder], tokens: Tokens
) -> None:
    seen: list[Tensor] = []
    with gpt2.intervene({HOOK: seen.append}):
        run(gpt2, tokens, [])
        # the input of a block is the very tensor that the block before it put out
        edit = Reconstruct(sae=replace(saes["gpt2-topk"], hook_name="blocks.2.hook_resid_pre"))
        places = {"special": tokens.special, "generated": GENERATED, "attention": tokens.attention}
        with steered(gpt2, [PlacedEdit(edit, "all")], **places):
            gpt2.forward(tokens)
    assert torch.equal(seen[0], seen[1])


class Broken(Reconstruct):
    def apply(self, x: Tensor, encoding: object = None) -> Tensor:
        raise ZeroDivisionError


@pytest.mark.parametrize("name", NAMES)
def test_edit_is_gone_after_the_context_and_after_an_exception(
    name: str, gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder], tokens: Tokens
) -> None:
    sae = saes[name]
    before, _, _ = run(gpt2, tokens, [])
    for edit in (every_edit(sae, some_scores(sae)) | added_directions(sae)).values():
        during, _, _ = run(gpt2, tokens, [PlacedEdit(edit, "all")])
        assert not torch.allclose(during, before)
        assert torch.equal(gpt2.forward(tokens), before)
        with pytest.raises(ZeroDivisionError):
            run(gpt2, tokens, [PlacedEdit(edit, "all"), PlacedEdit(Broken(sae=sae), "all")])
        assert torch.equal(gpt2.forward(tokens), before)


@pytest.mark.parametrize("name", NAMES)
def test_threads_that_steer_one_model_never_mix(
    name: str, gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    sae = saes[name]
    own = every_edit(sae, some_scores(sae)) | added_directions(sae)
    edits: list[Edit | None] = [None, *(edit for name, edit in own.items() if name != "current")]
    assert len(edits) == 8
    decoding = GenerationSettings(max_new_tokens=6, greedy=True)

    def ids(edit: Edit | None) -> list[int]:
        prompts = ["The surgeon mends a heart."]
        return Generator(gpt2, prompts, placed_edit(edit, "all"), decoding, measure=False).finish()[0].ids

    expected = [ids(edit) for edit in edits]
    assert len({tuple(i) for i in expected}) >= 4  # the edits do differ
    with ThreadPoolExecutor(len(edits)) as pool:
        for _ in range(3):
            assert list(pool.map(ids, edits)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_edits_side_by_side_share_one_encoding_and_do_what_each_does_alone(
    name: str,
    gpt2: LanguageModel,
    saes: Mapping[str, SparseAutoencoder],
    tokens: Tokens,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sae = saes[name]
    edits = list(every_edit(sae, some_scores(sae)).values())
    encoded: list[int] = []
    encode = SparseAutoencoder.encoding

    def counted(self: SparseAutoencoder, x: Tensor) -> Encoding:
        encoded.append(len(x))
        return encode(self, x)

    monkeypatch.setattr(SparseAutoencoder, "encoding", counted)
    first, second = torch.tensor([True, False]), torch.tensor([False, True])
    for one, other in zip(edits, [*edits[1:], Watch(sae=sae)], strict=True):
        encoded.clear()
        _, together, masks = run(gpt2, tokens, [PlacedEdit(one, "all", first), PlacedEdit(other, "all", second)])
        assert encoded == [int(tokens.attention.sum())]
        assert masks[0].sum() == tokens.attention[0].sum()
        _, alone, _ = run(gpt2, tokens, [PlacedEdit(one, "all", first)])
        torch.testing.assert_close(together[0], alone[0], rtol=1e-4, atol=1e-4)
        _, alone, _ = run(gpt2, tokens, [PlacedEdit(other, "all", second)])
        torch.testing.assert_close(together[1], alone[1], rtol=1e-4, atol=1e-4)


def test_edits_in_turn_encode_each_for_itself(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder], tokens: Tokens
) -> None:
    sae = saes["gpt2-topk"]
    swap, clamp = (every_edit(sae, some_scores(sae))[edit] for edit in ("swap", "clamp"))
    _, both, _ = run(gpt2, tokens, [PlacedEdit(swap, "all"), PlacedEdit(clamp, "all")])
    _, before, _ = run(gpt2, tokens, [])
    expected = before.clone()
    expected[tokens.attention] = clamp.apply(swap.apply(before[tokens.attention]))
    torch.testing.assert_close(both, expected)


def test_watching_changes_nothing_and_counts_as_no_edit(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    settings, sae = GenerationSettings(max_new_tokens=6), saes["gpt2-topk"]
    score = torch.linspace(0, 1, sae.d_sae)
    plain = Generator(gpt2, ["The surgeon"], [], settings).finish()[0]
    watched = Generator(gpt2, ["The surgeon"], [PlacedEdit(Watch(sae=sae), "generated")], settings, score=score)
    (made,) = watched.finish()
    assert made.ids == plain.ids
    assert (made.edit, made.positions_edited) == ("none", 0)
    assert made.prompt_tokens is not None
    ids = [*made.prompt_tokens.ids, *made.ids]
    read = gpt2.pad([TokenisedPrompt(ids, [False] * len(ids))])
    x = gpt2.activations(read, HOOK)[0, -len(made.ids) :]
    a = sae.encoding(x).a
    shares = (a.values * (1 - score[a.neurons])).sum(-1) / a.values.sum(-1)
    assert [figures.own_share for figures in made.figures] == pytest.approx(shares.tolist(), abs=1e-4)
    strongest = a.neurons.gather(-1, a.values.argmax(-1, keepdim=True))[:, 0].tolist()
    assert [figures.top_neurons[0][0] for figures in made.figures] == strongest
