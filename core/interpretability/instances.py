"""Contexts from instances of one's own, run through the model (FAST paper, section 5: 10,000 of them).

Two passes: the first finds the five instances on which each neuron is most active, and keeps five values a neuron; the
second keeps the activations of the drawn neurons on theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.build.activations import BATCH_TOKENS, active_neurons, length_sorted_batches
from core.errors import SettingsError, UsageError
from core.interpretability.contexts import (
    N_CONTEXTS,
    N_NEURONS,
    TABLE,
    NeuronContexts,
    contexts_of,
    contexts_table,
    draw,
)
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder, check_fits
from core.models.tokens import TokenisedPrompt
from core.progress import Progress
from core.results.app_store import AppStore
from core.steering.workbench import Workbench
from core.store.reader import Context
from core.text.prompts import dialogues
from core.training.corpus import Document, read_documents
from core.validated import Count, Seed, Text, validated

BUNDLED = "dialogues"
MAX_TOKENS = 8_192  # of an instance: where FAST truncates


@validated(SettingsError)
class InstanceSettings:
    """Which instances, and which neurons of theirs.

    Raises:
        SettingsError: a value is out of range.
    """

    file: Text = BUNDLED  # .jsonl with text or messages, or .txt; `dialogues`: the bundled ones
    instances: Count = 10_000  # drawn at random; all where there are fewer
    special: bool = False  # whether the template's own tokens count, too
    neurons: Count = N_NEURONS
    seed: Seed = 0

    def read(self) -> list[Document]:
        """The instances, drawn without replacement, in the order of the file.

        Raises:
            MissingFileError, PromptFileError, ConversationError: the file.
            UsageError: it holds no instance.
        """
        if self.file == BUNDLED:
            documents = [Document("", tuple(row["messages"])) for row in dialogues()]
        else:
            documents = list(read_documents(Path(self.file)))
        if not documents:
            raise UsageError(f"'{self.file}' holds no text; name a .jsonl or .txt file of instances")
        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.permutation(len(documents))[: self.instances])
        return [documents[i] for i in chosen]

    def key(self, fingerprint: str) -> str:
        """Identifies the contexts: what they were computed from."""
        file = Path(self.file)
        stamp = None if self.file == BUNDLED or not file.is_file() else [file.stat().st_size, file.stat().st_mtime_ns]
        content = json.dumps([fingerprint, self.file, stamp, self.instances, self.special, self.neurons, self.seed])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def instance_contexts(
    bench: Workbench,
    settings: InstanceSettings,
    results: AppStore,
    setup: str,
    progress: Progress = lambda stage, share: None,
) -> list[NeuronContexts]:
    """The drawn neurons with their five instances; saved, so that the same call again reads them.

    Raises:
        MissingFileError, PromptFileError, ConversationError, UsageError: see `InstanceSettings.read`; or no neuron
            fires on five instances.
        AutoencoderError: the SAE does not fit the model.
    """
    key = settings.key(bench.store.meta["fingerprint"])
    saved = results.result(setup, TABLE)
    if saved is not None and set(saved["run"]) == {key}:
        return contexts_of(saved)
    documents = settings.read()
    prompts = [_tokenised(bench.model, document) for document in documents]
    values, indices = strongest_instances(bench.model, bench.sae, prompts, special=settings.special, progress=progress)
    neurons = draw(np.flatnonzero((values > 0).all(0)).tolist(), settings.neurons, settings.seed)
    wanted = {neuron: indices[:, neuron].tolist() for neuron in neurons}
    source = f"{len(prompts):,} of {Path(settings.file).name}" + (", template tokens too" if settings.special else "")
    found = _contexts(bench.model, bench.sae, prompts, wanted, special=settings.special, source=source)
    results.save_result(setup, TABLE, contexts_table(found).assign(run=key))
    return found


def _tokenised(model: LanguageModel, document: Document) -> TokenisedPrompt:
    longest = min(MAX_TOKENS, model.n_context)
    if document.messages:
        return model.tokenise_chat(document.messages, max_length=longest)
    return model.tokenise(document.text, max_length=longest)


def _counted(sae: SparseAutoencoder, prompt: TokenisedPrompt, *, special: bool) -> list[int]:
    """Positions of the tokens that count; never those that the SAE was not trained on."""
    first = 1 if sae.skip_first else 0
    return [at for at in range(first, len(prompt.ids)) if special or not prompt.special[at]]


def _active(
    model: LanguageModel, sae: SparseAutoencoder, prompts: Sequence[TokenisedPrompt], *, special: bool
) -> Iterator[tuple[list[int], list[list[int]], tuple[Tensor, Tensor, Tensor]]]:
    """Batches: indices of their prompts, each one's counted positions, and the entries of `active_neurons`."""
    for batch in length_sorted_batches([len(prompt.ids) for prompt in prompts], BATCH_TOKENS):
        x = model.activations(model.pad([prompts[i] for i in batch]), sae.hook_name)
        check_fits(sae, x.shape[-1], model.name)
        places = [_counted(sae, prompts[i], special=special) for i in batch]
        kept = torch.cat([x[row, at] for row, at in enumerate(places)])
        yield batch, places, active_neurons(sae, kept)


@torch.inference_mode()
def strongest_instances(
    model: LanguageModel,
    sae: SparseAutoencoder,
    prompts: Sequence[TokenisedPrompt],
    *,
    special: bool = False,
    progress: Progress = lambda stage, share: None,
) -> tuple[Float[np.ndarray, "five d_sae"], Int[np.ndarray, "five d_sae"]]:
    """Each neuron's five largest activations, one an instance, largest first (0: silent), and the instances."""
    best = torch.zeros((N_CONTEXTS, sae.d_sae), device=model.device)
    at = torch.full((N_CONTEXTS, sae.d_sae), -1, device=model.device)
    done = 0
    for batch, places, (token, neuron, activation) in _active(model, sae, prompts, special=special):
        row = torch.repeat_interleave(torch.tensor([len(own) for own in places])).to(token.device)[token]
        largest = torch.zeros(len(batch) * sae.d_sae, device=model.device)
        largest.scatter_reduce_(0, row * sae.d_sae + neuron, activation.float(), "amax")
        values = torch.cat([best, largest.view(len(batch), sae.d_sae)])
        numbers = torch.tensor(batch, device=model.device)[:, None].expand(-1, sae.d_sae)
        best, order = values.topk(N_CONTEXTS, dim=0)
        at = torch.cat([at, numbers]).gather(0, order)
        done += len(batch)
        progress(f"instances: {done:,} of {len(prompts):,}", done / len(prompts))
    return best.cpu().numpy(), at.cpu().numpy()


@torch.inference_mode()
def _contexts(
    model: LanguageModel,
    sae: SparseAutoencoder,
    prompts: Sequence[TokenisedPrompt],
    wanted: dict[int, list[int]],
    *,
    special: bool,
    source: str,
) -> list[NeuronContexts]:
    """The contexts of the wanted neurons: their instances by number, strongest first."""
    needed = sorted({i for own in wanted.values() for i in own})
    found: dict[tuple[int, int], Context] = {}
    for batch, places, entries in _active(model, sae, [prompts[i] for i in needed], special=special):
        token, neuron, activation = (column.cpu().numpy() for column in entries)
        ends = np.cumsum([len(own) for own in places])
        for row, (i, end) in enumerate(zip([needed[b] for b in batch], ends, strict=True)):
            strings = model.token_strings([prompts[i].ids[at] for at in places[row]])
            mine = (token >= end - len(strings)) & (token < end)
            for number in (n for n, own in wanted.items() if i in own):
                chosen = mine & (neuron == number)
                activations = np.zeros(len(strings), dtype=np.float32)
                activations[token[chosen] - (end - len(strings))] = activation[chosen]
                found[number, i] = Context(i, "".join(strings), strings, activations, float(activations.max()))
    return [NeuronContexts(n, tuple(found[n, i] for i in own), source) for n, own in wanted.items()]
