"""Which neurons are most active on the tokens of a chat template (FAST paper, section 6 and F.3).

For each template token, a neuron's largest activation on it in a dialogue is averaged over dialogues. Template tokens
are identified by their position, never by id: a 'user' that somebody writes is content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64

from core.build.activations import BATCH_TOKENS, length_sorted_batches
from core.catalog import DATA
from core.errors import ConversationError
from core.evaluation.experiments import ExperimentOptions
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder, check_fits
from core.models.tokens import TokenisedPrompt
from core.progress import Progress
from core.steering.workbench import Workbench
from core.sweep.request import check_chat
from core.text.prompts import dialogues

N_DIALOGUES = 1_000  # as in the paper
N_TOP, N_PRINTED = 20, 5  # neurons per token: kept, and printed as in F.3


def template_tokens(tokenizer: Any, prompt: TokenisedPrompt) -> dict[str, list[int]]:
    """Positions of the template's tokens, by their text.

    These are the special tokens that the template inserts, and its role words: template text between special tokens
    whose first line is a single word (`user`, `assistant`, Gemma's `model`). Other template text, such as a system
    prompt or line breaks, is left out. A role word may take several tokens.
    """
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    found: dict[str, list[int]] = {}
    kinds = [(prompt.ids[at] in added, prompt.special[at]) for at in range(len(prompt.ids))]
    for (is_added, is_template), run in groupby(range(len(kinds)), key=kinds.__getitem__):
        positions = list(run)
        if is_added and is_template:
            for at in positions:
                found.setdefault(tokenizer.decode([prompt.ids[at]]), []).append(at)
        elif is_template:
            word, places = _first_line(tokenizer, prompt.ids, positions)
            if word and not word.split()[1:]:
                found.setdefault(word, []).extend(places)
    return found


def _first_line(tokenizer: Any, ids: Sequence[int], positions: Sequence[int]) -> tuple[str, list[int]]:
    """The first line of a run of tokens, and the positions of its tokens; those of only white space are left out."""
    line, places = "", []
    for n, at in enumerate(positions, start=1):
        text = tokenizer.decode([ids[i] for i in positions[:n]])
        if text.strip() != line:
            line = text.strip()
            places.append(at)
        if text.endswith("\n"):
            break
    return line, places


@dataclass
class _Sums:
    """Sums over dialogues for one template token."""

    dialogues: int
    maxima: Float64[np.ndarray, "d_sae"]
    active: Float64[np.ndarray, "d_sae"]


def _add_batch(
    model: LanguageModel,
    sae: SparseAutoencoder,
    prompts: Sequence[TokenisedPrompt],
    positions: Sequence[Mapping[str, list[int]]],
    sums: dict[str, _Sums],
) -> None:
    """Runs some dialogues up to the hook point and adds their largest activations to the sums."""
    x = model.activations(model.pad(prompts), sae.hook_name)
    check_fits(sae, x.shape[-1], model.name)
    for token in dict.fromkeys(token for own in positions for token in own):
        places = [(row, at) for row, own in enumerate(positions) for at in own.get(token, [])]
        row, at = (torch.tensor(part, device=x.device) for part in zip(*places, strict=True))
        a = sae.activate(sae.pre_activations(x[row, at]))
        largest = torch.stack([own.amax(0) for own in a.split(row.unique(return_counts=True)[1].tolist())])
        known = sums.setdefault(token, _Sums(0, np.zeros(sae.d_sae), np.zeros(sae.d_sae)))
        known.dialogues += len(largest)
        known.maxima += largest.float().sum(0).cpu().numpy()
        known.active += (largest > 0).sum(0).cpu().numpy()


def _top(token: str, sums: _Sums) -> pd.DataFrame:
    """The neurons with the largest mean, best first; ties go to the lower number, and silent neurons are left out."""
    means = sums.maxima / sums.dialogues
    best = np.argsort(-means, kind="stable")[:N_TOP]
    best = best[means[best] > 0]
    return pd.DataFrame(
        {
            "token": token,
            "rank": np.arange(1, len(best) + 1),
            "neuron": best,
            "mean_max": means[best],
            "share_active": sums.active[best] / sums.dialogues,
            "dialogues": sums.dialogues,
        }
    )


@torch.inference_mode()
def strongest_neurons(
    model: LanguageModel,
    sae: SparseAutoencoder,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    progress: Progress = lambda stage, share: None,
) -> pd.DataFrame:
    """The neurons most active on each template token, summed up batch by batch.

    Returns:
        One row per (token, neuron), at most `N_TOP` per token, tokens in their order in a conversation: token, rank,
        neuron, mean_max (largest activation on the token in a conversation, mean over the conversations with that
        token), share_active (share of these in which the neuron is active there), dialogues (their number).

    Raises:
        ModelFolderError: the tokenizer has no chat template.
        AutoencoderError: the SAE does not fit the model.
        ConversationError: the chat template refuses a conversation; its number is in the message.
    """
    prompts = []
    for number, messages in enumerate(conversations, start=1):
        try:
            prompts.append(model.tokenise_chat(messages, max_length=model.n_context))
        except ConversationError as exc:
            raise ConversationError(f"conversation {number} of {len(conversations)}: {exc}") from None
    positions = [template_tokens(model.tokenizer, prompt) for prompt in prompts]
    order = dict.fromkeys(token for own in positions for token in sorted(own, key=lambda token: own[token][0]))
    if sae.skip_first:  # an attention sink, on which the SAE was not trained: its values there mean nothing
        positions = [_after_the_first(own) for own in positions]
    sums: dict[str, _Sums] = {}
    done = 0
    for batch in length_sorted_batches([len(prompt.ids) for prompt in prompts], BATCH_TOKENS):
        _add_batch(model, sae, [prompts[i] for i in batch], [positions[i] for i in batch], sums)
        done += len(batch)
        progress("special", done / len(prompts))
    return pd.concat([_top(token, sums[token]) for token in order if token in sums], ignore_index=True)


def _after_the_first(positions: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The positions without that of the text's first token."""
    later = {token: [at for at in places if at > 0] for token, places in positions.items()}
    return {token: places for token, places in later.items() if places}


def as_printed(table: pd.DataFrame) -> pd.DataFrame:
    """The table in the form of F.3: token, dialogues, and the top five as `index:value`."""
    lines = []
    for token, group in table.groupby("token", sort=False):
        best = group.nsmallest(N_PRINTED, "rank")
        cells = [f"{n}:{value:#.4g}" for n, value in zip(best["neuron"], best["mean_max"], strict=True)]
        lines.append({"token": token, "dialogues": int(group["dialogues"].iloc[0]), "top_5": " ".join(cells)})
    return pd.DataFrame(lines, columns=["token", "dialogues", "top_5"])


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `special` (20 neurons per template token) and `special-top` (the top five, as F.3 prints them).

    Raises:
        ChatSetupError: the setup does not use a chat template.
    """
    check_chat(workbench.model.has_template, "experiment 'special'")
    rows = dialogues()
    n = min(N_DIALOGUES, len(rows))
    spread = [rows[i * len(rows) // n]["messages"] for i in range(n)]  # evenly spaced, to cover all categories
    try:
        table = strongest_neurons(workbench.model, workbench.sae, spread, progress)
    except ConversationError as exc:
        raise ConversationError(f"'{DATA / 'dialogues.jsonl'}', {exc}") from None
    return {"special": table, "special-top": as_printed(table)}
