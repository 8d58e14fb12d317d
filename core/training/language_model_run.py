"""A whole run: tokenizer, tokenised corpus, training, and the finished model folder with its card."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2ForCausalLM

from core.catalog import Setup
from core.models.loading import load_language_model
from core.progress import Progress
from core.settings import GenerationSettings
from core.steering.generation import Generator
from core.text.prompts import continuations, dialogues, questions, reference_prompts
from core.training.corpus import encode_documents, is_held_out, read_documents
from core.training.language_model import (
    IM_END,
    BlockSampler,
    LanguageModelConfig,
    TokenisedCorpus,
    bits_per_byte,
    new_model,
    tokenise_corpus,
    train_language_model,
    train_tokenizer,
)

_TOKENIZER_SHARE = 0.5  # of the documents that a pass takes: enough for merge counts
_N_SAMPLES, _SAMPLE_TOKENS = 10, 60
_N_REFERENCE = 1_000  # reference prompts that bits per byte is reported on


@dataclass(frozen=True)
class Evaluation:
    """What the card reports."""

    bits_per_byte: dict[str, float]  # by held-out source, and on the bundled texts, which are never trained on
    samples: list[tuple[str, str]]  # (prompt, continuation), unselected


def _tokenizer_texts(config: LanguageModelConfig, text_folder: Path) -> Iterator[str]:
    rng = random.Random(config.seed)
    for source in config.sources:
        for document in read_documents(text_folder / source.path):
            if rng.random() < _TOKENIZER_SHARE * source.share and not is_held_out(document):
                yield document.text


def prepare_tokenizer(config: LanguageModelConfig, text_folder: Path, work: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a run: the one to start from, or trained at the run's start and then read from its folder."""
    if config.start_from:
        return PreTrainedTokenizerFast.from_pretrained(config.start_from)  # type: ignore[no-any-return]
    if not (work / "tokenizer.json").exists():
        train_tokenizer(_tokenizer_texts(config, text_folder), config.vocabulary_size).save_pretrained(work)
    return PreTrainedTokenizerFast.from_pretrained(work)  # type: ignore[no-any-return]


def _bundled_texts() -> dict[str, list[str]]:
    prompts = [prompt.text for prompt in reference_prompts("embedded", _N_REFERENCE)]
    conversations = ["\n".join(message["content"] for message in d["messages"]) for d in dialogues()]
    return {"bundled dialogues": conversations, f"bundled reference prompts ({_N_REFERENCE:,})": prompts}


def evaluate(
    config: LanguageModelConfig, model: Qwen2ForCausalLM, corpus: TokenisedCorpus, tokenizer: Tokenizer, folder: Path
) -> Evaluation:
    """Bits per byte of every held-out source and of the bundled texts, and samples from the saved model."""
    model.eval()
    end = model.config.eos_token_id
    assert isinstance(end, int)
    bits = {
        name: bits_per_byte(model, documents, corpus.held_out_bytes[name], config.context_size)
        for name, documents in corpus.held_out.items()
        if documents
    }
    for name, texts in _bundled_texts().items():
        n_bytes = sum(len(text.encode()) for text in texts)
        bits[name] = bits_per_byte(model, encode_documents(iter(texts), tokenizer, end), n_bytes, config.context_size)
    saved = load_language_model(Setup(name=config.name, model=str(folder), sae="none", chat=config.chat))
    prompts = (questions() if config.chat else continuations())[:_N_SAMPLES]
    settings = GenerationSettings(max_new_tokens=_SAMPLE_TOKENS, seed=0)
    made = Generator(saved, prompts, [], settings).finish()
    return Evaluation(bits, [(g.prompt, g.text) for g in made])


def card(config: LanguageModelConfig, model: Qwen2ForCausalLM, evaluation: Evaluation, loss: float) -> str:
    """The model card in Markdown."""
    prompts = "data/questions.txt" if config.chat else "data/continuations.txt"
    n_parameters = sum(p.numel() for p in model.parameters())
    sources = "\n".join(f"| `{s.path}` | {s.licence} | {s.share:g} |" for s in config.sources)
    bits = "\n".join(f"| {name} | {value:.3f} |" for name, value in evaluation.bits_per_byte.items())
    samples = "\n\n".join(f"> **{prompt}** {' '.join(text.split())}" for prompt, text in evaluation.samples)
    return f"""# {config.name}

A small English language model for trying out sparse autoencoders and steering: Qwen2 architecture,
{n_parameters:,} parameters (d_model {config.hidden_size}, {config.num_hidden_layers} blocks, vocabulary
{config.vocabulary_size:,}), {_origin(config)}. It writes English sentences on the subject of its prompt, without
much sense; do not rely on anything it says.

## Training

{config.tokens:,} tokens in blocks of {config.context_size} ({config.steps:,} steps of {config.batch_size} blocks).
Muon for the matrices of the blocks (learning rate {config.muon_lr:g}), AdamW for the rest ({config.adamw_lr:g}),
constant after {config.warmup_steps} steps of warm-up, linear to 0 over the last {config.decay_share:.0%}; seed
{config.seed}. Mean training loss of the last 50 steps: {loss:.3f} nats a token.

| text | licence | share of its documents in a pass |
| --- | --- | --- |
{sources}

1% of the documents, by a hash of their text, is never trained on; nor is any text that this repository bundles.

## Bits per byte on held-out text

| text | bits per byte |
| --- | --- |
{bits}

## Samples

The first {_N_SAMPLES} prompts of `{prompts}`, {_SAMPLE_TOKENS} tokens each, sampled from the top 5,
seed 0, unselected.

{samples}
"""


def _origin(config: LanguageModelConfig) -> str:
    if not config.start_from:
        return "trained from scratch"
    return f"trained from `{Path(config.start_from).name}` on conversations in its chat template"


def _final_loss(work: Path, steps: int = 50) -> float:
    rows = (work / "losses.jsonl").read_text(encoding="utf-8").splitlines()[-steps:]
    return float(np.mean([json.loads(row)["loss"] for row in rows]))


def save_model(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, *, chat: bool) -> None:
    """An ordinary Hugging Face folder: bf16 safetensors, fast tokenizer with chat template, generation config."""
    end = tokenizer.eos_token_id
    ends = [tokenizer.convert_tokens_to_ids(IM_END), end] if chat else end
    model.bfloat16()
    model.generation_config = GenerationConfig(
        bos_token_id=end, eos_token_id=ends, pad_token_id=end, do_sample=True, top_k=5, max_new_tokens=64
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run_language_model(
    config: LanguageModelConfig, text_folder: Path, work: Path, folder: Path, progress: Progress
) -> Path:
    """Trains the model of a config and writes its folder; goes on from the work folder's checkpoint.

    Raises:
        MissingFileError, PromptFileError: a source of the config.
    """
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = prepare_tokenizer(config, text_folder, work)
    progress("tokenising", 0.0)
    corpus = tokenise_corpus(config, text_folder, tokenizer)
    progress("tokenising", 1.0)
    model = new_model(config, tokenizer)
    train_language_model(
        config,
        BlockSampler(corpus, config),
        model,
        work,
        lambda step, _loss: progress("training", (step + 1) / config.steps),
    )
    save_model(model, tokenizer, folder, chat=config.chat)
    progress("evaluating", 0.0)
    evaluation = evaluate(config, model.float(), corpus, tokenizer.backend_tokenizer, folder)
    progress("evaluating", 1.0)
    (folder / "README.md").write_text(card(config, model, evaluation, _final_loss(work)), encoding="utf-8")
    return folder
