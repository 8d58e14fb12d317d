"""Builds: tokens per second against the bare loop and against sae_lens's activation store, and memory."""

import contextlib
import io
import subprocess
import sys
from typing import Any

import torch

from benchmarks.models import embedded_model_folder, embedded_setup
from benchmarks.timing import Figure, speed_ratio, take_turns
from core.build.activations import BATCH_TOKENS, length_sorted_batches, token_activations
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder, load_setup
from core.text.prompts import reference_prompts

_MEMORY = """
import resource, sys, tempfile
from pathlib import Path
from benchmarks.models import embedded_setup
from core.build.pipeline import build
with tempfile.TemporaryDirectory() as folder:
    build(embedded_setup(), Path(folder), prompts=int(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _bare_loop(model: LanguageModel, sae: SparseAutoencoder, texts: list[str]) -> None:
    """Model as far as the hook, encoder product, activation function: nothing kept."""
    tokenised = [model.tokenise(text) for text in texts]
    with torch.inference_mode():
        for batch in length_sorted_batches([len(prompt.ids) for prompt in tokenised], BATCH_TOKENS):
            tokens = model.pad([tokenised[i] for i in batch])
            sae.select(sae.pre_activations(model.activations(tokens, sae.hook_name)[~tokens.special]))


def _ours(model: LanguageModel, sae: SparseAutoencoder, texts: list[str]) -> None:
    for _ in token_activations(model, sae, texts):
        pass


def _sae_lens_store(setup: Any, texts: list[str]) -> tuple[Any, Any]:
    """sae_lens's activation store over the same prompts, each a row of its own, and its SAE."""
    import sae_lens
    from datasets import Dataset
    from sae_lens.load_model import load_model
    from sae_lens.training.activations_store import ActivationsStore

    sae = sae_lens.SAE.load_from_disk(setup.sae)
    layer = sae.cfg.metadata.hook_name.split(".")[1]
    model = load_model(
        "AutoModelForCausalLM",
        embedded_model_folder(),
        device="cpu",
        model_from_pretrained_kwargs={"dtype": setup.dtype},
    )
    store = ActivationsStore(
        model=model,
        dataset=Dataset.from_dict({"text": texts}),
        streaming=False,
        hook_name=f"model.layers.{layer}",
        hook_head_index=None,
        context_size=64,
        d_in=sae.cfg.d_in,
        n_batches_in_buffer=128,
        total_training_tokens=10**9,
        store_batch_size_prompts=64,
        train_batch_size_tokens=2_048,
        prepend_bos=True,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
    )
    return store, sae


def run(repeats: int, *, quick: bool, against_sae_lens: bool) -> list[Figure]:
    """The embedded setup's own model, SAE and reference prompts."""
    setup = embedded_setup()
    model, sae = load_setup(setup)
    texts = [prompt.text for prompt in reference_prompts(setup.reference, 64 if quick else 512)]
    n_tokens = sum(len(model.tokenise(text).ids) - 1 for text in texts)
    sides: dict[str, Any] = {
        "ours": lambda: _ours(model, sae, texts),
        "bare": lambda: _bare_loop(model, sae, texts),
    }
    if against_sae_lens:
        with contextlib.redirect_stderr(io.StringIO()):
            store, theirs = _sae_lens_store(setup, texts)

        def sae_lens_side() -> None:
            done = 0
            with torch.inference_mode():
                while done < n_tokens:
                    done += len(theirs.encode(store.next_batch()))

        sides["sae_lens"] = sae_lens_side
    seconds = take_turns(sides, repeats)
    note = f"{n_tokens / sorted(seconds['ours'])[repeats // 2]:,.0f} tokens/s"
    figures = [Figure("build, of the bare loop", speed_ratio(seconds, "ours", "bare"), "x", 0.9, "high", note)]
    if against_sae_lens:
        ratio = speed_ratio(seconds, "ours", "sae_lens")
        figures.append(Figure("build, of sae_lens's activation store and encode", ratio, "x", 1.5, "high", note))
    return [*figures, _memory(quick=quick)]


def _memory(*, quick: bool) -> Figure:
    """Peak memory of a build of many prompts over that of a build of few."""
    few, many = (64, 128) if quick else (512, 4_096)
    peaks = {}
    for n in (few, many):
        done = subprocess.run([sys.executable, "-c", _MEMORY, str(n)], capture_output=True, text=True, check=True)
        peaks[n] = int(done.stdout.split()[-1]) / 1024
    note = f"{peaks[many]:,.0f} MB against {peaks[few]:,.0f} MB"
    return Figure(f"peak memory, {many:,} prompts over {few:,}", peaks[many] / peaks[few], "x", 1.25, note=note)
