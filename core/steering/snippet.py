"""Exports a way of steering as a Python script that needs only transformers and sae_lens."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.errors import EditError
from core.models.language_model import HookSite, LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder
from core.models.tokens import TokenisedPrompt
from core.settings import GenerationSettings
from core.steering.code_edits import Clamp, CodeEdit, Edit, Swap, Weight
from core.steering.edits import Add, Vector
from core.steering.placement import PlacedEdit, editable
from core.steering.ways import Way
from core.text.chat_template import ROLES

SCORES_FILE = "scores.csv"  # columns neuron and score, for swap, weight and `reach`
_LINE = 100  # characters per line of an encoded direction

_IMPORTS = """\
# {name}, using only transformers and sae_lens.
# In float32 on a CPU it writes the text that Steerscope shows;
# elsewhere rounding and random draws may differ.
{plain}import torch
{sae_lens}from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

torch.set_grad_enabled(False)
"""

_SCORES = f"""\
score = torch.zeros(sae.cfg.d_sae)  # a neuron without a score counts as 0
with open("{SCORES_FILE}", newline="") as file:
    for row in csv.DictReader(file):
        score[int(row["neuron"])] = float(row["score"])
"""

_WITHIN_REACH = """\
def within_reach(x, least):
    \"\"\"Tokens where a neuron with a score above `least` is among the 2k largest pre-activations.\"\"\"
    size = {size}
    n_active = (sae.encode({x}) != 0).sum(-1, keepdim=True)
    rank = size.argsort(-1, descending=True).argsort(-1)
    return ((rank < 2 * n_active) & (size > 0) & (score > least)).any(-1)
"""

_MATCHED = """\
    margin = {margin}
    able = {gamma} * score > 0
    n_active = (sae.encode({x}) != 0).sum(-1, keepdim=True)
    rank = margin.masked_fill(~able, -torch.inf).argsort(-1, descending=True).argsort(-1)
    kept = able & (rank < n_active)
"""

_STEER = """\
def steer(edit, in_prompt, generated):
    \"\"\"A hook that edits these prompt positions, and generated tokens if `generated`.\"\"\"
    seen = 0

    def hook(module, args, {last}):
        nonlocal seen
        x = {taken}
        first, seen = seen, seen + x.shape[1]
        places = [i - first for i in range(first, seen) if (i in in_prompt if i < n_prompt else generated)]
        if places:
            x = x.clone()
            x[0, places] = edit(x[0, places]).to(x.dtype)
        return {given}

    return hook


module = model.get_submodule("{module}")  # {hook_name}
{registered}
"""

_DECODING = """\
end = {end}
model.generation_config = GenerationConfig(
    max_new_tokens={n}, {sampling}, eos_token_id=end or None, pad_token_id=0
)
torch.manual_seed({seed})
ids = torch.tensor([ids])
made = model.generate(ids, attention_mask=torch.ones_like(ids))[0, n_prompt:].tolist()
print(tokenizer.decode([i for i in made if i not in end]))
"""


@dataclass(frozen=True)
class Snippet:
    """A script, and by file name the tables that it reads from the folder where it runs."""

    code: str
    files: dict[str, pd.DataFrame]


def python_snippet(
    model: LanguageModel, sae: SparseAutoencoder, way: Way, prompt: str, generation: GenerationSettings
) -> Snippet:
    """Writes a script that loads model and SAE, steers, and prints the continuation of the prompt.

    In float32 on a CPU its output equals that of Steerscope (tested).

    Raises:
        EditError: the way steers at another hook point than the SAE's.
    """
    edits = [p.edit for p in way.placed]
    if any(edit.hook_name != sae.hook_name for edit in edits):
        raise EditError("a script shows edits at one layer; leave the other layers out")
    chat = model.chat if generation.chat is None else generation.chat
    tokens = model.tokenise(way.prefix + prompt, generate=True, chat=chat)
    score = next((s for edit in edits if (s := _score_of(edit)) is not None), None)
    reaches = any(isinstance(edit, CodeEdit) and edit.reach is not None for edit in edits)
    blocks = [
        _model(model) + (_sae(sae) if any(isinstance(edit, CodeEdit | Add) for edit in edits) else ""),
        "" if score is None else _SCORES,
        _prompt(model, way.prefix + prompt, tokens, chat=chat),
        _sigma(sae) if reaches or any(isinstance(edit, Swap | Weight) for edit in edits) else "",
        _WITHIN_REACH.format(size=_size(sae), x=_input(sae)) if reaches else "",
        *(_edit(f"edit_{number}", edit, sae) for number, edit in enumerate(edits, start=1)),
        _hooks(model, way.placed, tokens) if edits else "",
        _decoding(model, generation),
    ]
    body = "\n".join(f"\n{block}" if block.startswith("def ") else block for block in blocks if block)
    return Snippet(f"{_imports(way.name, body)}\n{body}", {} if score is None else {SCORES_FILE: _table(score)})


def _score_of(edit: Edit) -> Tensor | None:
    """The scores that the edit needs, if it needs any."""
    if isinstance(edit, Swap | Weight):
        return edit.score
    return edit.reach.score if isinstance(edit, CodeEdit) and edit.reach is not None else None


def _table(score: Tensor) -> pd.DataFrame:
    scored = score.nonzero()[:, 0]
    return pd.DataFrame({"neuron": scored.tolist(), "score": score[scored].tolist()})


def _imports(name: str, body: str) -> str:
    plain = "".join(f"import {module}\n" for module in ("base64", "csv") if f"{module}." in body)
    return _IMPORTS.format(
        name=f"Steering by '{name}'" if name != "none" else "The unedited model",
        plain=f"{plain}\n" if plain else "",
        sae_lens="from sae_lens import SAE\n" if "SAE." in body else "",
    )


def _model(model: LanguageModel) -> str:
    dtype = next(model.model.parameters()).dtype
    return (
        f"MODEL = {model.place!r}\n"
        f"tokenizer = AutoTokenizer.from_pretrained(MODEL)\n"
        f"model = AutoModelForCausalLM.from_pretrained(MODEL, dtype={dtype}).eval()\n"
    )


def _sae(sae: SparseAutoencoder) -> str:
    if Path(sae.name).is_dir():
        loaded = f"SAE.load_from_disk({sae.name!r})"
    else:
        release, _, sae_id = sae.name.partition(":")
        loaded = f"SAE.from_pretrained({release!r}, {sae_id!r})"
    flat = "sae.turn_off_forward_pass_hook_z_reshaping()  # keep the heads concatenated\n"
    return f"sae = {loaded}.eval()\n" + (flat if sae.hook_name.endswith("hook_z") else "")


def _prompt(model: LanguageModel, text: str, tokens: TokenisedPrompt, *, chat: bool) -> str:
    plain = "tokenizer(prompt, add_special_tokens=False, split_special_tokens=True).input_ids"
    if chat:
        message = [{"role": "user", "content": text}]
        template = model.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        ids = (
            "tokenizer.apply_chat_template(\n"
            '    [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False\n)'
        )
        if template != tokens.ids:  # the prompt spells special tokens, which are meant as text
            ids = f"{tokens.ids}  # chat template, with the prompt as ordinary text"
    else:
        ids = f"[{model.first_token_id}, *{plain}]" if model.prepend_bos else plain
    return f"prompt = {text!r}\nids = {ids}\nn_prompt = len(ids)\n"


def _input(sae: SparseAutoencoder) -> str:
    """The script's expression for the SAE's input."""
    return "x - x.mean(-1, keepdim=True)" if sae.center_input else "x"


def _gamma(sae: SparseAutoencoder, name: str = "gamma") -> str:
    """The script's expression for gamma in what its `pre_activations` returns."""
    return f"{name}[0]" if sae.architecture == "gated" else name


def _size(sae: SparseAutoencoder) -> str:
    gamma = _gamma(sae, "pre_activations(x)")
    return f"{gamma}.abs()" if sae.architecture == "abstopk" else gamma


def _sigma(sae: SparseAutoencoder) -> str:
    """The script's functions `pre_activations` and `sigma`, the two halves of the SAE's `encode`."""
    head = f"def pre_activations(x):\n    x = sae.process_sae_in({_input(sae)})\n"
    if sae.architecture == "gated":
        return (
            f"{head}    # magnitudes, gates\n"
            "    return torch.stack([x @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag, x @ sae.W_enc + sae.b_gate])\n\n\n"
            "def sigma(gamma):\n    return (gamma[1] > 0) * sae.activation_fn(gamma[0])\n"
        )
    rescaled = "" if sae.decoder_norms is None else " * sae.W_dec.norm(dim=-1)"
    pre = "x @ sae.W_enc + sae.b_enc"
    gate = " * (gamma > sae.threshold)" if sae.architecture == "jumprelu" else ""
    return (
        f"{head}    return {f'({pre}){rescaled}' if rescaled else pre}\n\n\n"
        f"def sigma(gamma):\n    return sae.activation_fn(gamma){gate}\n"
    )


def _edit(name: str, edit: Edit, sae: SparseAutoencoder) -> str:
    """The script's function `name`, from activations [token d_in] to their replacement."""
    if isinstance(edit, Vector):
        constant = f"direction{name.removeprefix('edit')}"
        added = f"def {name}(x):  # {edit.name}\n    return x + {constant}.to(x.dtype)\n"
        return f"{constant} = {_direction(edit)}\n\n\n{added}"
    assert isinstance(edit, CodeEdit)
    x = _input(sae)
    steered = "x + (sae.decode(a) - x_sae)" if edit.keep_error else "sae.decode(a)"
    lines = [
        f"def {name}(x):  # {edit.name}\n",
        f"    x_sae = sae.decode(sae.encode({x}))\n" if edit.keep_error else "",
        _code(edit, sae),
        f"    return {steered}\n"
        if edit.reach is None
        else f"    return torch.where(within_reach(x, {edit.reach.least})[:, None], {steered}, x)\n",
    ]
    return "".join(lines)


def _code(edit: CodeEdit, sae: SparseAutoencoder) -> str:
    """The script's lines that compute a', the post-activations after the edit."""
    x, gamma = _input(sae), _gamma(sae)
    weight = f"score**{edit.sharpness!r}" if isinstance(edit, Swap) and edit.sharpness != 1 else "score"
    if isinstance(edit, Weight):
        return "    a = sigma(pre_activations(x) * score)\n"
    if isinstance(edit, Swap):
        if edit.matched_count and sae.architecture in ("jumprelu", "gated"):
            margin = (
                f"sae.r_mag.exp() * gamma[1] - gamma[0] * (1 - {weight})"
                if sae.architecture == "gated"
                else f"gamma * {weight} - sae.threshold.clamp(min=0)"
            )
            kept = _MATCHED.format(margin=margin, gamma=gamma, x=x)
        else:
            kept = f"    kept = sigma(gamma * {weight}) != 0\n"
        return f"    gamma = pre_activations(x)\n{kept}    a = torch.where(kept, {gamma}, 0.0)\n"
    forced = ""
    if isinstance(edit, Clamp) and len(edit.neurons):
        times = "*" if edit.current else ""
        forced = f"    a[:, {edit.neurons.tolist()}] {times}= torch.tensor({_numbers(edit.values)})\n"
    return f"    a = sae.encode({x})\n{forced}"


def _numbers(values: Tensor) -> str:
    """The shortest decimals that give exactly these float32 numbers."""
    return f"[{', '.join(str(np.float32(value)) for value in values.tolist())}]"


def _direction(edit: Vector) -> str:
    if isinstance(edit, Add):
        alphas = torch.tensor([alpha for _, alpha in edit.alphas])
        return f"torch.tensor({_numbers(alphas)}) @ sae.W_dec[{[neuron for neuron, _ in edit.alphas]}]"
    encoded = base64.b64encode(edit.direction.float().cpu().numpy().tobytes()).decode()
    lines = "\n".join(f'    "{encoded[i : i + _LINE]}"' for i in range(0, len(encoded), _LINE))
    values = f"torch.frombuffer(bytearray(base64.b64decode(\n{lines}\n)), dtype=torch.float32)"
    return f"{edit.alpha!r} * {values}"


def _hooks(model: LanguageModel, placed: Sequence[PlacedEdit], tokens: TokenisedPrompt) -> str:
    site: HookSite = model.hook_site(placed[0].edit.hook_name)
    before = site.side == "hook_in"
    register = "module.register_forward_pre_hook" if before else "module.register_forward_hook"
    registered = []
    for number, p in enumerate(placed, start=1):
        places, generated = _places(model, p, tokens)
        steer = f"steer(edit_{number}, {places}, {generated})"
        registered.append(f"{register}({steer}, with_kwargs=True)" if before else f"{register}({steer})")
    return _STEER.format(
        last="kwargs" if before else "output",
        taken='args[0] if args else kwargs["hidden_states"]'
        if before
        else "output[0] if isinstance(output, tuple) else output",
        given='((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})'
        if before
        else "(x, *output[1:]) if isinstance(output, tuple) else x",
        module=site.module_path,
        hook_name=site.hook_name,
        registered="\n".join(registered),
    )


def _places(model: LanguageModel, placed: PlacedEdit, tokens: TokenisedPrompt) -> tuple[str, bool]:
    """The edited positions of the prompt as Python code, and whether generated tokens are edited."""
    batch = model.pad([tokens])
    nothing, one = torch.zeros_like(batch.special), torch.ones(1, 1, dtype=torch.bool, device=model.device)
    edited = (
        editable(placed.positions, batch.special, nothing, batch.attention, batch.roles)[0].nonzero()[:, 0].tolist()
    )
    if placed.edit.leaves_first:
        edited = [place for place in edited if place]
    answer = None if batch.roles is None else torch.full_like(one, ROLES["assistant"], dtype=torch.long)
    generated = bool(editable(placed.positions, ~one, one, one, answer))
    contiguous = bool(edited) and edited == list(range(edited[0], edited[-1] + 1))
    return f"range({edited[0]}, {edited[-1] + 1})" if contiguous else str(edited), generated


def _decoding(model: LanguageModel, generation: GenerationSettings) -> str:
    sampling = f"do_sample=True, top_k={generation.top_k}, temperature={generation.temperature}"
    return _DECODING.format(
        end=model.end_token_ids,
        n=generation.max_new_tokens,
        sampling="do_sample=False" if generation.greedy else sampling,
        seed=generation.seed,
    )
