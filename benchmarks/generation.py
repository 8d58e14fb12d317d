"""Steered decoding against plain `transformers` generate, and against sae_lens's HookedSAETransformer.

On the shape of GPT-2 small with a TopK SAE of 32,768 neurons, and on the default setup.
"""

import warnings
from typing import Any

import torch

from benchmarks.models import PROMPT, K, as_language_model, embedded_setup, gpt2_small, topk_sae
from benchmarks.timing import Figure, speed_ratio, take_turns
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder, load_setup
from core.settings import GenerationSettings
from core.steering.code_edits import Edit
from core.steering.edits import EditName, add_neurons, make_edit
from core.steering.generation import Generator
from core.steering.placement import PlacedEdit, placed_edit

BATCHES = (1, 8)
STEERED: tuple[EditName, ...] = ("swap", "clamp", "sae")
OF_PLAIN = 0.95
BARS_AGAINST_SAE_LENS = {1: 4.0, 8: 2.2}
SWEPT = 8  # alphas


def _steered(model: LanguageModel, edit: Edit, batch: int, n_new: int) -> None:
    settings = GenerationSettings(max_new_tokens=n_new, greedy=True)
    made = Generator(model, [PROMPT] * batch, placed_edit(edit), settings, measure=False).finish()
    assert all(len(generation.ids) == n_new for generation in made)


def _plain(model: LanguageModel, batch: int, n_new: int) -> None:
    ids = torch.tensor([model.tokenise(PROMPT, generate=True).ids] * batch)
    with torch.inference_mode():
        out = model.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=n_new,
            min_new_tokens=n_new,
            do_sample=False,
            pad_token_id=0,
        )
    assert out.shape[1] == ids.shape[1] + n_new


def _hooked_sae_transformer(model: Any, sae: SparseAutoencoder) -> Any:
    """The same weights in sae_lens's own class, the SAE attached."""
    import sae_lens
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights

    shape = model.config
    config = HookedTransformerConfig(
        n_layers=shape.n_layer,
        d_model=shape.n_embd,
        n_heads=shape.n_head,
        d_head=shape.n_embd // shape.n_head,
        n_ctx=shape.n_positions,
        d_vocab=shape.vocab_size,
        act_fn="gelu_new",
        normalization_type="LN",
        default_prepend_bos=False,
        device="cpu",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its base class goes with transformer_lens 4
        hooked = sae_lens.HookedSAETransformer(config)
    hooked.load_state_dict(convert_gpt2_weights(model, config), strict=False)
    theirs = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=sae.d_in, d_sae=sae.d_sae, k=K, apply_b_dec_to_input=True))
    theirs.cfg.metadata.hook_name = sae.hook_name
    theirs.load_state_dict({name: getattr(sae, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")})
    hooked.add_sae(theirs)
    return hooked


def _theirs(hooked: Any, ids: torch.Tensor, n_new: int) -> None:
    with torch.inference_mode():
        hooked.generate(ids, max_new_tokens=n_new, do_sample=False, stop_at_eos=False, verbose=False, prepend_bos=False)


def edits_of(sae: SparseAutoencoder) -> dict[str, Edit]:
    score = torch.rand(sae.d_sae, generator=torch.Generator().manual_seed(0))
    edits = {name: make_edit(name, sae, score=score, reference_max=torch.ones(sae.d_sae)) for name in STEERED}
    return {name: edit for name, edit in edits.items() if edit is not None}


def _of_plain(
    where: str, model: LanguageModel, sae: SparseAutoencoder, batch: int, repeats: int, n_new: int, hooked: Any = None
) -> list[Figure]:
    """Tokens per second under each edit as ratios, greedy, the same number of new tokens on every side."""
    ids = torch.tensor([model.tokenise(PROMPT, generate=True).ids] * batch)
    sides: dict[str, Any] = {"plain": lambda: _plain(model, batch, n_new)}
    for name, edit in edits_of(sae).items():
        sides[name] = lambda edit=edit: _steered(model, edit, batch, n_new)
    if hooked is not None:
        sides["sae_lens"] = lambda: _theirs(hooked, ids, n_new)
    seconds = take_turns(sides, repeats)
    figures = []
    for name in edits_of(sae):
        note = f"{batch * n_new / sorted(seconds[name])[repeats // 2]:.1f} tokens/s"
        ratio, what = speed_ratio(seconds, name, "plain"), f"{where}, {name}, batch {batch}"
        figures.append(Figure(f"{what}, of plain generate", ratio, "x", OF_PLAIN, "high", note))
        if hooked is not None and name in ("swap", "clamp"):
            ratio, bar = speed_ratio(seconds, name, "sae_lens"), BARS_AGAINST_SAE_LENS[batch]
            figures.append(Figure(f"{what}, of HookedSAETransformer", ratio, "x", bar, "high", note))
    return figures


def _on_default_setup(repeats: int, n_new: int) -> list[Figure]:
    model, sae = load_setup(embedded_setup())
    model.model.generation_config.eos_token_id = -1  # it never ends a text, so that every run is as long as the others
    return _of_plain(embedded_setup().name, model, sae, 1, repeats, n_new)


def run(repeats: int, *, quick: bool, against_sae_lens: bool) -> list[Figure]:
    """Batch 1 and 8 on the shape of GPT-2, where an SAE weighs much beside the model; batch 1 on the default setup."""
    n_new = 8 if quick else 64
    raw = gpt2_small(quick=quick)
    sae, model = topk_sae(raw, quick=quick), as_language_model(raw)
    hooked = _hooked_sae_transformer(raw, sae) if against_sae_lens else None
    figures = []
    for batch in BATCHES:
        figures += _of_plain("GPT-2's shape", model, sae, batch, repeats, n_new, hooked)
    figures.append(_sweep(model, sae, repeats, n_new))
    return figures if quick else [*figures, *_on_default_setup(repeats, n_new)]


def _sweep(model: LanguageModel, sae: SparseAutoencoder, repeats: int, n_new: int) -> Figure:
    """Eight alphas of one question in one batch against one."""
    settings = GenerationSettings(max_new_tokens=n_new, greedy=True)

    def alphas(n: int) -> None:
        rows = torch.eye(n, dtype=torch.bool)
        placed = [PlacedEdit(add_neurons(sae, {3: 5.0 * i}), "all", rows[i]) for i in range(n)]
        Generator(model, [PROMPT] * n, placed, settings, measure=False).finish()

    seconds = take_turns({"one": lambda: alphas(1), "all": lambda: alphas(SWEPT)}, repeats)
    return Figure(f"{SWEPT} alphas in one batch, of one alpha", 1 / speed_ratio(seconds, "all", "one"), "x", 2.0)
