"""How well the SAE reconstructs conversations, and what edits do to special tokens (FAST, 4.1; Topic Alignment, 4.2).

Conversations go through the chat template and run alone. The FAST paper compares SAEs by the squared error over all
tokens and over special ones. The Topic Alignment paper left special tokens out of its figures, as their error under the
edits was very high: here it stands beside that of ordinary tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.catalog import DATA
from core.evaluation.experiments import ALL_TOPICS, ExperimentOptions
from core.evaluation.layer import COLUMNS
from core.models.language_model import LanguageModel
from core.progress import Progress
from core.steering.settings import SteeringSettings
from core.steering.workbench import Workbench
from core.training.activation_source import kept_positions, on_device
from core.training.conversations import ConversationBatches
from core.training.corpus import Document, read_documents
from core.training.encoded_texts import EncodedTexts, TrainingTokens
from core.training.sae_evaluation import ERRORS, Evaluation, HeldOutText, MeanSquaredError, evaluate_autoencoder
from core.training.training_text import run_alone

MAX_TOKENS = 512  # of a conversation; a longer one is truncated
CROSS_ENTROPY_TOKENS = 20_000
N_EDITED = 60  # conversations whose special tokens are edited, for every topic
KINDS = {  # kinds of token, as tables name them
    "mse_all": "all",
    "mse_special": "special",
    "mse_special_without_roles": "markers",
    "mse_template": "template",
    "mse_first": "first",
}
_TOKENS_PER_BATCH = 4_096
_BLOCK = 512  # tokens edited at once, to limit the dense [token d_sae] blocks


def read_conversations(path: Path | None) -> list[Document]:
    """The conversations of a file (`messages`, or plain `text`, a line); None: the bundled ones.

    Raises:
        MissingFileError, PromptFileError, ConversationError: see `read_documents`.
    """
    return list(read_documents(path or DATA / "dialogues.jsonl"))


def batches(model: LanguageModel, documents: Sequence[Document]) -> ConversationBatches:
    """The conversations as batches of tokens, each run alone.

    Raises:
        TrainingConfigError: the tokenizer has no chat template.
        EmptyDatasetError: there is no text.
    """
    texts = EncodedTexts.join(run_alone(iter(documents), model), "no conversation to reconstruct: the file has no text")
    longest = min(MAX_TOKENS, model.n_context)
    return ConversationBatches(texts, max_tokens=longest, tokens_per_batch=_TOKENS_PER_BATCH, seed=0)


def _by_kind(evaluation: Evaluation) -> pd.DataFrame:
    """One row per kind of token: tokens, mean over conversations with its log2, and the mean over tokens."""
    errors: dict[str, MeanSquaredError] = {KINDS[name]: getattr(evaluation, name) for name in ERRORS}
    rows = [
        {"kind": kind, "tokens": e.tokens, "mse": e.by_sequence, "mse_log2": e.log2, "mse_pooled": e.pooled}
        for kind, e in errors.items()
    ]
    return pd.DataFrame(rows)


def _figures(evaluation: Evaluation) -> pd.DataFrame:
    """One row with the figures that are not errors."""
    plain = {name: value for name, value in asdict(evaluation).items() if name not in ERRORS}
    return pd.DataFrame([plain | {"ce_recovered": evaluation.ce_recovered}])


# ---- under the edits ----


def _kinds_of(tokens: TrainingTokens, *, skip_first: bool) -> dict[str, Bool[Tensor, "seq pos"]]:
    """Masks of ordinary tokens, special ones (role words and markers), and the rest of the template."""
    within = kept_positions(tokens, True, skip_first=skip_first)
    special = tokens.marker | tokens.role
    return {
        "ordinary": within & ~tokens.special,
        "special": within & special,
        "other template": within & tokens.special & ~special,
    }


@torch.inference_mode()
def activations_by_kind(workbench: Workbench, documents: Sequence[Document]) -> dict[str, Float[Tensor, "token d_in"]]:
    """Activations of some conversations at the hook point, by kind of token; kinds that do not occur are left out."""
    model, sae = workbench.model, workbench.sae
    of_text = batches(model, documents)
    parts: defaultdict[str, list[Tensor]] = defaultdict(list)
    for number in range(of_text.batches_in_first_pass):
        tokens = on_device(of_text.batch(number), model.device)
        x = model.activations(tokens, sae.hook_name)
        for kind, where in _kinds_of(tokens, skip_first=sae.skip_first).items():
            parts[kind].append(x[where])
    joined = {kind: torch.cat(of_kind) for kind, of_kind in parts.items()}
    return {kind: x for kind, x in joined.items() if len(x)}


@torch.inference_mode()
def _edited_errors(
    workbench: Workbench, options: ExperimentOptions, x_by_kind: Mapping[str, Tensor], progress: Progress
) -> Iterator[dict[str, object]]:
    """mse(x', x) of every topic, edit and kind of token; the mean over tokens."""
    settings = options.steering or SteeringSettings()
    for number, topic in enumerate(options.topics):
        progress(f"edits: {topic.title}", number / len(options.topics))
        scored = workbench.score(topic)
        for name in COLUMNS:
            edit = workbench.edit(name, scored, settings)
            assert edit is not None
            for kind, x in x_by_kind.items():
                errors = [(edit.apply(part) - part).pow(2).mean(-1) for part in x.split(_BLOCK)]
                mse = torch.cat(errors).double().mean().item()
                yield {"topic": topic.name, "edit": name, "kind": kind, "tokens": len(x), "mse": mse}


def _compared(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows and their means over topics, with log2 and the ratio to the SAE's own error on the same tokens."""
    means = rows.groupby(["edit", "kind"], sort=False, as_index=False).agg({"tokens": "first", "mse": "mean"})
    table = pd.concat([means.assign(topic=ALL_TOPICS), rows], ignore_index=True)
    own = table[table["edit"] == "sae"].set_index(["topic", "kind"])["mse"]
    of_sae = own.reindex(pd.MultiIndex.from_frame(table[["topic", "kind"]])).to_numpy()
    table = table.assign(mse_log2=np.log2(table["mse"]), times_sae=table["mse"] / of_sae)
    return table[["topic", "edit", "kind", "tokens", "mse", "mse_log2", "times_sae"]]


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `reconstruction` (errors by kind of token), `reconstruction-figures` and `reconstruction-edits`.

    Raises:
        MissingFileError, PromptFileError, ConversationError, TrainingConfigError, EmptyDatasetError: the conversations
            cannot be used.
    """
    model, sae = workbench.model, workbench.sae
    documents = read_conversations(options.dialogues)
    text = HeldOutText(
        batches=batches(model, documents),
        max_tokens=10**9,
        keep_special=True,
        skip_first=sae.skip_first,
        cross_entropy_tokens=CROSS_ENTROPY_TOKENS,
    )
    evaluation = evaluate_autoencoder(sae, model, text, progress)
    spread = documents[:: max(1, len(documents) // N_EDITED)][:N_EDITED]
    rows = list(_edited_errors(workbench, options, activations_by_kind(workbench, spread), progress))
    return {
        "reconstruction": _by_kind(evaluation),
        "reconstruction-figures": _figures(evaluation),
        "reconstruction-edits": _compared(pd.DataFrame(rows)),
    }
