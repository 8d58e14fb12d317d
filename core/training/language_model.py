"""Trains a small language model: byte-level BPE, Qwen2 architecture, Muon and AdamW; from scratch, or a chat model
from a base model.

Everything comes from one TOML file (`data/configs/demo_base.toml`, `demo_chat.toml`). A run is resumable: the batch of
a step depends on the seed and the step alone, and the learning rate on the step and the total. The schedule is warm-up,
constant, then a linear decay over the last `decay_share`, so that a run can be prolonged from any checkpoint of its
constant part by raising `tokens`.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from core.errors import TrainingConfigError
from core.text.chat_template import encode_conversation
from core.training.corpus import Document, TextSource, encode_documents, is_held_out, read_documents
from core.training.precision import has_bfloat16_units
from core.validated import (
    Context,
    Count,
    LearningRate,
    Line,
    Name,
    NotNegative,
    Seed,
    Several,
    Share,
    Whole,
    from_table,
    read_toml,
    validated,
)

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
ROLES = ("user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ROLE_REPEATS = 20_000  # makes the BPE trainer merge each role word into one token


@validated(TrainingConfigError)
class LanguageModelConfig:
    """Architecture, data and optimisation of one embedded language model.

    Raises:
        TrainingConfigError: a value out of range, or values that do not go together.
    """

    name: Name
    sources: Several[TextSource]
    start_from: Line = ""  # folder of a trained model whose weights and tokenizer are the start; "": from scratch
    chat: bool = False  # conversations through the chat template, a block beginning where a conversation does
    vocabulary_size: Annotated[int, Field(ge=259, le=2**16)] = 8_192  # 256 bytes and three special tokens at least
    hidden_size: Count = 256
    intermediate_size: Count = 704
    num_hidden_layers: Count = 6
    num_attention_heads: Count = 4
    max_position_embeddings: Context = 1_024
    context_size: Context = 256  # tokens in a training block
    batch_size: Count = 32  # blocks in a step
    tokens: Count = 28_000_000  # to train on in all
    warmup_steps: Whole = 100
    decay_share: Share = 0.2  # last share of the steps, over which the learning rate falls linearly to 0
    muon_lr: LearningRate = 0.02  # for the matrices of the blocks
    adamw_lr: LearningRate = 3e-3  # for embeddings, norms and biases
    weight_decay: NotNegative = 0.1
    checkpoint_steps: Count = 100
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise TrainingConfigError("name at least one [[language_model.sources]]")
        if self.steps < 1:
            least = self.batch_size * self.context_size
            raise TrainingConfigError(f"tokens ({self.tokens}) is at least batch_size times context_size, {least}")
        if self.hidden_size % (2 * self.num_attention_heads):
            pairs = 2 * self.num_attention_heads  # rotary positions take the dimensions of a head in pairs
            raise TrainingConfigError(
                f"hidden_size ({self.hidden_size}) is a multiple of twice num_attention_heads, {pairs}"
            )

    @property
    def steps(self) -> int:
        return self.tokens // (self.batch_size * self.context_size)


@dataclass(frozen=True, kw_only=True)
class TokenisedCorpus:
    """Token ids of every source, documents apart, split in training and held-out ones."""

    train: dict[str, list[np.ndarray]]
    held_out: dict[str, list[np.ndarray]]
    held_out_bytes: dict[str, int] = field(default_factory=dict)


def load_config(path: Path) -> LanguageModelConfig:
    """Reads `[language_model]` and its `[[language_model.sources]]` from a TOML file.

    Raises:
        TrainingConfigError: an unknown or a missing key, or a value out of range.
    """
    table = read_toml(path, TrainingConfigError)["language_model"]
    # without sources, the error tells how to name some
    values = {"sources": [], **table} if isinstance(table, dict) else table
    return from_table(LanguageModelConfig, values, f"[language_model] of '{path}'")


def train_tokenizer(texts: Iterator[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with `<|endoftext|>`, `<|im_start|>`, `<|im_end|>` special and each role word one token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def with_roles() -> Iterator[str]:
        yield from texts
        for _ in range(_ROLE_REPEATS):
            yield from ROLES

    bpe.train_from_iterator(with_roles(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, chat_template=CHAT_TEMPLATE
    )


def tokenise_corpus(
    config: LanguageModelConfig, text_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> TokenisedCorpus:
    """Encodes every source of the config; 1% of its documents is held out (see `is_held_out`)."""
    train, held_out, n_bytes = {}, {}, {}
    for source in config.sources:
        kept: list[Document] = []
        left_out: list[Document] = []
        for document in read_documents(text_folder / source.path):
            (left_out if is_held_out(document) else kept).append(document)
        train[source.path] = _encoded(kept, tokenizer, chat=config.chat)
        held_out[source.path] = _encoded(left_out, tokenizer, chat=config.chat)
        n_bytes[source.path] = sum(len(document.text.encode()) for document in left_out)
    return TokenisedCorpus(train=train, held_out=held_out, held_out_bytes=n_bytes)


def _encoded(documents: list[Document], tokenizer: PreTrainedTokenizerFast, *, chat: bool) -> list[np.ndarray]:
    """Token ids of documents, each ended by the end-of-text token."""
    end = tokenizer.eos_token_id
    if not chat:
        return encode_documents((d.text for d in documents), tokenizer.backend_tokenizer, end)
    conversations = (encode_conversation(tokenizer, d.messages)[0] for d in documents if d.messages)
    return [np.array([*ids, end], dtype=np.uint16) for ids in conversations]


class BlockSampler:
    """Blocks of `context_size + 1` tokens from concatenated documents, newly drawn and shuffled for every pass.

    The blocks of a step depend on the seed and the step alone, so a resumed run sees what an unbroken one sees.
    """

    def __init__(self, corpus: TokenisedCorpus, config: LanguageModelConfig) -> None:
        self._corpus, self._config = corpus, config
        self._pass = -1
        self._blocks = self._draw(0)
        self._blocks_per_pass = len(self._blocks)

    def _draw(self, number: int) -> np.ndarray:
        """Blocks `[block context_size+1]` of one pass; neighbouring blocks share their border token."""
        rng = np.random.default_rng([self._config.seed, number])
        documents: list[np.ndarray] = []
        for source in self._config.sources:
            of_source = self._corpus.train[source.path]
            n = round(len(of_source) * source.share)
            documents += [of_source[i] for i in rng.permutation(len(of_source))[:n]]
        chosen = [documents[i] for i in rng.permutation(len(documents))]
        stream = np.concatenate(chosen)
        size = self._config.context_size
        starts = np.arange(0, len(stream) - size, size)
        if self._config.chat:
            starts = _conversation_starts(np.cumsum([0, *map(len, chosen)]), size)
        self._pass = number
        blocks: np.ndarray = np.lib.stride_tricks.sliding_window_view(stream, size + 1)[rng.permutation(starts)]
        return blocks

    def batch(self, step: int) -> Int[Tensor, "block pos"]:
        """The blocks of one optimiser step."""
        size = self._config.batch_size
        # passes differ a little in length; each is cut to the first one's whole batches
        per_pass = max(1, int(self._blocks_per_pass * 0.99) // size)
        number, place = divmod(step, per_pass)
        if number != self._pass:
            self._blocks = self._draw(number)
        return torch.from_numpy(self._blocks[place * size : (place + 1) * size].astype(np.int64))


def _conversation_starts(borders: Int[np.ndarray, "conversation+1"], size: int) -> Int[np.ndarray, "block"]:
    """Starts of blocks of `size + 1` tokens, each at the first conversation that the block before does not reach.

    The model learns what comes after the very first `<|im_start|>`; what a block cuts off is left for another pass.
    """
    starts = [0]
    while (after := int(borders[np.searchsorted(borders, starts[-1] + size + 1)])) + size < borders[-1]:
        starts.append(after)
    return np.array(starts)


def new_model(config: LanguageModelConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """The model to train: a randomly initialised Qwen2 with tied embeddings, or the one to start from."""
    if config.start_from:
        start: Qwen2ForCausalLM = Qwen2ForCausalLM.from_pretrained(config.start_from, dtype=torch.float32)
        return start
    torch.manual_seed(config.seed)
    end = tokenizer.eos_token_id
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def optimisers(model: nn.Module, config: LanguageModelConfig) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, norms and biases."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers." in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "layers." not in n]
    return {
        "muon": torch.optim.Muon(
            matrices,
            lr=config.muon_lr,
            momentum=0.95,
            weight_decay=config.weight_decay,
            adjust_lr_fn="original",
        ),
        "adamw": torch.optim.AdamW(others, lr=config.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    }


def learning_rate_factor(step: int, config: LanguageModelConfig) -> float:
    """Share of the full learning rate at a step: linear warm-up, constant, linear decay to 0."""
    decay_steps = max(1, round(config.steps * config.decay_share))
    return min(1.0, (step + 1) / config.warmup_steps, (config.steps - step) / decay_steps)


def next_token_loss(model: nn.Module, blocks: Int[Tensor, "block pos"]) -> Float[Tensor, ""]:
    """Mean next-token cross-entropy in nats; bf16 products where the device has units for them, float32 loss."""
    with torch.autocast(blocks.device.type, dtype=torch.bfloat16, enabled=has_bfloat16_units(blocks.device)):
        logits = model(input_ids=blocks[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), blocks[:, 1:].flatten())


def _save_checkpoint(path: Path, step: int, model: nn.Module, optimisers_: dict[str, torch.optim.Optimizer]) -> None:
    partial = path.with_suffix(".partial")
    state = {"step": step, "model": model.state_dict()}
    torch.save(state | {name: o.state_dict() for name, o in optimisers_.items()}, partial)
    os.replace(partial, path)


def _load_checkpoint(path: Path, model: nn.Module, optimisers_: dict[str, torch.optim.Optimizer]) -> int:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for name, optimiser in optimisers_.items():
        optimiser.load_state_dict(state[name])
    return int(state["step"])


def train_language_model(
    config: LanguageModelConfig,
    sampler: BlockSampler,
    model: Qwen2ForCausalLM,
    work_folder: Path,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Trains `model` in place to `config.steps`, from the checkpoint in `work_folder` where there is one."""
    work_folder.mkdir(parents=True, exist_ok=True)
    checkpoint = work_folder / "checkpoint.pt"
    opts = optimisers(model, config)
    base_lrs = {"muon": config.muon_lr, "adamw": config.adamw_lr}
    first = _load_checkpoint(checkpoint, model, opts) if checkpoint.exists() else 0
    loss_of = torch.compile(next_token_loss)
    model.train()
    device = next(model.parameters()).device
    with (work_folder / "losses.jsonl").open("a", encoding="utf-8") as log:
        for step in range(first, config.steps):
            started = time.perf_counter()
            for name, optimiser in opts.items():
                for group in optimiser.param_groups:
                    group["lr"] = base_lrs[name] * learning_rate_factor(step, config)
            loss = loss_of(model, sampler.batch(step).to(device))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in opts.values():
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            row = {"step": step, "loss": round(loss.item(), 4), "seconds": round(time.perf_counter() - started, 3)}
            log.write(json.dumps(row) + "\n")
            on_step(step, row["loss"])
            if (step + 1) % config.checkpoint_steps == 0 or step + 1 == config.steps:
                log.flush()
                _save_checkpoint(checkpoint, step + 1, model, opts)


@torch.no_grad()
def bits_per_byte(
    model: Qwen2ForCausalLM, documents: list[np.ndarray], n_bytes: int, context_size: int, batch_size: int = 64
) -> float:
    """Bits that the model needs per byte of the documents' text, each document read by itself.

    A document longer than `context_size` is read in pieces; the end-of-text token before its first piece conditions it.
    """
    end = model.config.eos_token_id
    pieces: list[Tensor] = []
    for document in documents:
        ids = torch.from_numpy(np.concatenate([[end], document[:-1]]).astype(np.int64))
        pieces += [ids[start : start + context_size + 1] for start in range(0, len(ids) - 1, context_size)]
    pieces.sort(key=len)
    nats = 0.0
    for start in range(0, len(pieces), batch_size):
        batch = pieces[start : start + batch_size]
        ids = nn.utils.rnn.pad_sequence(batch, batch_first=True)  # on the right: causal attention never sees it
        targets = nn.utils.rnn.pad_sequence([piece[1:] for piece in batch], batch_first=True, padding_value=-100)
        logits = model(input_ids=ids[:, :-1]).logits.float()
        nats += nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    return nats / math.log(2) / n_bytes
