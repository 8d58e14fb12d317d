"""SAE training against sae_lens's own runner: same model, same blocks of tokens, same settings, turn by turn.

Each figure covers the language model as far as the hook, the mixing buffer and the SAE's steps; loading and evaluation
are left out.
"""

import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import sae_lens
import torch
from datasets import Dataset
from sae_lens.config import LanguageModelSAERunnerConfig, LoggingConfig

from benchmarks.models import embedded_model_folder
from benchmarks.timing import Figure
from core.models.language_model import LanguageModel
from core.training.autoencoder_config import AutoencoderConfig
from core.training.autoencoders import AutoencoderRun, load_model_to_train_on
from core.training.blocks import BlockBatches
from core.training.corpus import TextSource
from core.training.encoded_texts import CONTENT, EncodedTexts
from core.training.precision import in_bfloat16

LAYER, CONTEXT_SIZE, BATCH_SIZE, BUFFER_SIZE, BLOCKS_A_FORWARD = 2, 256, 2_048, 32_768, 32


def config_of(model: str, tokens: int) -> AutoencoderConfig:
    """The settings that both sides train by."""
    return AutoencoderConfig(
        name="benchmark",
        model=model,
        hook_name=f"blocks.{LAYER}.hook_resid_post",
        sources=(TextSource(path="none", licence="none"),),
        context_size=CONTEXT_SIZE,
        tokens=tokens,
        batch_size=BATCH_SIZE,
        buffer_size=BUFFER_SIZE,
        forward_tokens=BLOCKS_A_FORWARD * CONTEXT_SIZE,
        warmup_steps=1,  # there are few steps in all
        normalise=False,
        checkpoint_steps=10**9,
        device="cpu",
    )


class Speed:
    """Tokens per second, and per second of processor time, of what runs in its `with` block."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __enter__(self) -> "Speed":
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = self.tokens / (time.perf_counter() - self._started[0])
        self.processor = self.tokens / (time.process_time() - self._started[1])


def ours(config: AutoencoderConfig, model: LanguageModel, blocks: np.ndarray) -> Speed:
    """`AutoencoderRun`."""
    texts = EncodedTexts(
        blocks.ravel(), np.full(blocks.size, CONTENT, np.uint8), np.arange(0, blocks.size + 1, CONTEXT_SIZE)
    )
    batches = BlockBatches(texts, context_size=CONTEXT_SIZE, blocks_per_batch=BLOCKS_A_FORWARD, seed=0)
    with tempfile.TemporaryDirectory() as folder, Speed(config.tokens) as speed:
        AutoencoderRun(config, model, batches, Path(folder)).train(lambda stage, share: None)
    return speed


def theirs(config: AutoencoderConfig, d_in: int, blocks: np.ndarray) -> Speed:
    """sae_lens's `LanguageModelSAETrainingRunner`."""
    sae = sae_lens.TopKTrainingSAEConfig(
        d_in=d_in, d_sae=config.width(d_in), k=config.k, apply_b_dec_to_input=False, decoder_init_norm=1.0
    )
    bfloat16 = in_bfloat16(config.autocast, torch.device(config.device))
    settings = LanguageModelSAERunnerConfig(
        sae=sae,
        model_name=config.model,
        model_class_name="AutoModelForCausalLM",
        model_from_pretrained_kwargs={"dtype": config.model_dtype},
        hook_name=f"model.layers.{LAYER}",
        is_dataset_tokenized=True,
        streaming=False,
        context_size=CONTEXT_SIZE,
        prepend_bos=False,
        store_batch_size_prompts=BLOCKS_A_FORWARD,
        n_batches_in_buffer=BUFFER_SIZE // CONTEXT_SIZE,
        training_tokens=config.tokens,
        train_batch_size_tokens=BATCH_SIZE,
        lr=config.lr,
        lr_end=config.lr_end,
        lr_scheduler_name="cosineannealing",
        lr_warm_up_steps=config.warmup_steps,
        dead_feature_window=config.dead_window // BATCH_SIZE,
        autocast=bfloat16,
        autocast_lm=bfloat16,
        checkpoint_path=None,
        output_path=None,
        verbose=False,
        logger=LoggingConfig(log_to_wandb=False),
    )
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        runner = sae_lens.LanguageModelSAETrainingRunner(
            settings, override_dataset=Dataset.from_dict({"input_ids": blocks.astype(np.int64)})
        )
        with Speed(config.tokens) as speed:
            runner.run()
    return speed


def run(repeats: int, *, quick: bool) -> list[Figure]:
    """Medians turn by turn; by processor time as well, which other work on the machine disturbs less."""
    config = config_of(embedded_model_folder(), 4_096 if quick else 65_536)
    model = load_model_to_train_on(config)
    shape = (2 * config.tokens // CONTEXT_SIZE, CONTEXT_SIZE)
    blocks = np.random.default_rng(0).integers(0, model.model.config.vocab_size, shape, dtype=np.uint32)
    pairs = [(ours(config, model, blocks), theirs(config, model.d_model, blocks)) for _ in range(repeats)]
    wall = statistics.median(a.wall / b.wall for a, b in pairs)
    processor = statistics.median(a.processor / b.processor for a, b in pairs)
    note = f"{statistics.median(a.wall for a, _ in pairs):,.0f} tokens/s; {processor:.2f} x by processor time"
    return [Figure("SAE training, of sae_lens's own runner", wall, "x", 1.5, "high", note)]
