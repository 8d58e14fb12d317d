"""Trains one sparse autoencoder with sae_lens's training classes and `SAETrainer`, fed by our own data provider.

Initialisation follows the FAST paper, Appendix A: Kaiming uniform weights, decoder rows of unit norm, the decoder bias
at the geometric median of a sample of activations, and encoder bias 0. Loss, gradient, optimiser and the format on disk
are those of sae_lens. The saved SAE has decoder rows of unit norm in every architecture: norms that training changed
are folded into the encoder, which leaves the function unchanged.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import sae_lens
import torch
from jaxtyping import Float
from sae_lens.config import SAETrainerConfig
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from sae_lens.saes.sae import SAEMetadata, TrainingSAE
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.catalog import Setup
from core.errors import CheckpointError
from core.models.language_model import LanguageModel
from core.models.loading import load_language_model, not_finite
from core.progress import Progress
from core.training.activation_source import ActivationSource, TokenBatches
from core.training.autoencoder_config import AutoencoderConfig
from core.training.checkpoints import check_same_settings, latest_checkpoint, load_checkpoint, save_checkpoint
from core.training.divergence import diverged
from core.training.geometric_median import geometric_median
from core.training.mixing_buffer import MixingBuffer
from core.training.precision import in_bfloat16
from core.training.sae_card import write_card
from core.training.sae_evaluation import HeldOutText, evaluate_autoencoder, load_trained
from core.training.scaled_topk import ScaledBatchTopKTrainingSAE
from core.training.shared_activations import KeptChunks
from core.training.sparse_topk import SparseTopKTrainingSAE
from core.training.training_text import held_out_text, token_batches
from core.training.unit_decoder import keep_decoder_direction, normalise_decoder

SETTINGS_FILE = "training.json"
TEXT_FILE = "text.json"  # how many conversations deduplication read and dropped
_LOG_EVERY_STEPS = 10


def new_autoencoder(config: AutoencoderConfig, d_in: int) -> TrainingSAE[Any]:
    """A new SAE with weights drawn from the config's seed; the decoder bias is still 0.

    The decoder is drawn Kaiming uniform, each row is scaled to unit norm, and the encoder is its transpose. JumpReLU
    instead multiplies encoder, encoder bias and threshold by each row's former norm (FAST paper, Appendix A), which
    leaves the reconstruction unchanged.

    Raises:
        TrainingConfigError: more active neurons a token than neurons.
    """
    config.check_k(d_in)
    common: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": config.width(d_in),
        "device": config.device,
        "apply_b_dec_to_input": config.apply_b_dec_to_input,
        "normalize_activations": "expected_average_only_in" if config.normalise else "none",
        "decoder_init_norm": None if config.architecture == "jumprelu" else 1.0,
        "metadata": SAEMetadata(
            model_name=config.model,
            hook_name=config.hook_name,
            context_size=config.max_conversation_tokens if config.method == "fast" else config.context_size,
            prepend_bos=config.method == "btp" or config.first_token is not None,  # how plain documents begin
            first_token=config.first_token,
            skip_first=config.skip_first,
            training_method=config.method,
            training_tokens=config.tokens,
            training_seed=config.seed,
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        sae = _of_architecture(config, common)
    if config.architecture == "jumprelu":
        sae.fold_W_dec_norm()
    return sae


def _of_architecture(config: AutoencoderConfig, common: dict[str, Any]) -> TrainingSAE[Any]:
    l1 = {"l1_coefficient": config.sparsity, "l1_warm_up_steps": config.sparsity_warmup_steps}
    match config.architecture:
        case "standard":
            return sae_lens.StandardTrainingSAE(sae_lens.StandardTrainingSAEConfig(**common, **l1))
        case "gated":
            return sae_lens.GatedTrainingSAE(sae_lens.GatedTrainingSAEConfig(**common, **l1))
        case "jumprelu":
            return sae_lens.JumpReLUTrainingSAE(
                sae_lens.JumpReLUTrainingSAEConfig(
                    **common,
                    l0_coefficient=config.sparsity,
                    l0_warm_up_steps=config.sparsity_warmup_steps,
                    jumprelu_bandwidth=config.bandwidth,
                    jumprelu_init_threshold=config.initial_threshold,
                )
            )
    top = {"k": config.k, "aux_loss_coefficient": config.aux_coefficient}
    if config.architecture == "topk":
        return SparseTopKTrainingSAE(sae_lens.TopKTrainingSAEConfig(**common, **top))
    return ScaledBatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(**common, **top))


def new_trainer(config: AutoencoderConfig, sae: TrainingSAE[Any]) -> Any:
    """sae_lens's trainer for the config; the caller steps it with batches from the mixing buffer."""
    settings = SAETrainerConfig(
        total_training_samples=config.steps * config.batch_size,
        train_batch_size_samples=config.batch_size,
        lr=config.lr,
        lr_end=config.lr_end,
        lr_scheduler_name="cosineannealing",
        lr_warm_up_steps=config.warmup_steps,
        adam_beta1=config.beta1,
        adam_beta2=config.beta2,
        device=config.device,
        autocast=in_bfloat16(config.autocast, torch.device(config.device)),
        dead_feature_window=max(1, config.dead_window // config.batch_size),
        feature_sampling_window=max(1, config.dead_window // config.batch_size),
    )
    return sae_lens.SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))


@torch.no_grad()
def initialise_from_activations(trainer: Any, sample: Float[Tensor, "token d_in"], config: AutoencoderConfig) -> None:
    """Sets the activation scale, and the decoder bias to the geometric median of the scaled sample (FAST, Eq. 9-12)."""
    scale = 1.0
    if config.normalise:
        scale = sample.shape[1] ** 0.5 / sample.norm(dim=1).mean().item()
        trainer.activation_scaler.scaling_factor = scale
    trainer.sae.b_dec.copy_(geometric_median(sample * scale))


class AutoencoderRun:
    """One training run and its folder: `checkpoints/` and `losses.jsonl`, and at the end `sae/`."""

    def __init__(
        self,
        config: AutoencoderConfig,
        model: LanguageModel,
        batches: TokenBatches,
        folder: Path,
        kept: KeptChunks | None = None,
    ) -> None:
        """Continues from the folder's latest checkpoint, if any; `kept` holds activations shared with other runs."""
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.source = ActivationSource(
            model,
            config.hook_name,
            batches,
            keep_special=config.keep_special,
            skip_first=config.skip_first,
            autocast=config.autocast,
            kept=kept,
        )
        d_in = self.source.d_in
        self.buffer = MixingBuffer(
            self.source.next_chunk,
            size=config.buffer_size,
            batch_size=config.batch_size,
            d_in=d_in,
            seed=config.seed,
            device=config.device,
        )
        self.trainer = new_trainer(config, new_autoencoder(config, d_in))
        if config.normalise_decoder:
            keep_decoder_direction(self.trainer.sae)
        checkpoint = latest_checkpoint(folder / "checkpoints")
        if checkpoint is None:
            with self._full_disk_told():
                sample = self.buffer.sample(config.median_tokens)
            initialise_from_activations(self.trainer, sample, config)
        else:
            load_checkpoint(checkpoint, config, self.trainer, self.buffer, self.source)
        self._cut_log()

    @property
    def _log_path(self) -> Path:
        return self.folder / "losses.jsonl"

    def _cut_log(self) -> None:
        """Drops log rows of steps after the checkpoint, which are trained again."""
        rows = self._log_path.read_text(encoding="utf-8").splitlines(True) if self._log_path.exists() else []
        kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= self.trainer.n_training_steps]
        self._log_path.write_text("".join(kept), encoding="utf-8")

    def train(self, progress: Progress) -> None:
        """Trains to the last step, with a checkpoint every `checkpoint_steps`.

        Raises:
            CheckpointError: the disk is full; the last checkpoint is intact.
            DivergedError: the loss or the weights are no numbers any more; the last checkpoint is intact.
        """
        with self._full_disk_told():
            self._train(progress)

    @contextmanager
    def _full_disk_told(self) -> Iterator[None]:
        """Turns a disk error while logging or sharing activations into one that names the last checkpoint."""
        try:
            yield
        except OSError as exc:
            raise CheckpointError(self.folder, latest_checkpoint(self.folder / "checkpoints"), exc) from exc

    def _train(self, progress: Progress) -> None:
        config, trainer = self.config, self.trainer
        started, first = time.perf_counter(), trainer.n_training_steps
        with self._log_path.open("a", encoding="utf-8") as log:
            while trainer.n_training_steps < config.steps:
                trainer.maybe_reset_sparsity()
                output = trainer.step(next(self.buffer))
                step = trainer.n_training_steps = trainer.n_training_steps + 1
                if not math.isfinite(loss := output.loss.item()):
                    raise diverged(config, self.folder, f"the loss is {loss} at step {step}", output.sae_in)
                if config.normalise_decoder:
                    normalise_decoder(trainer.sae)
                if step % _LOG_EVERY_STEPS == 0 or step == config.steps:
                    log.write(json.dumps(self._log_row(output)) + "\n")
                    log.flush()
                    rate = (step - first) * config.batch_size / (time.perf_counter() - started)
                    left = (config.steps - step) * config.batch_size / rate
                    progress(f"{config.name}: {rate:,.0f} tokens/s, {left / 60:.0f} min left", step / config.steps)
                if step % config.checkpoint_steps == 0 or step == config.steps:
                    if wrong := not_finite(trainer.sae.named_parameters()):
                        raise diverged(config, self.folder, f"{wrong} is no number after step {step}", output.sae_in)
                    save_checkpoint(self.folder / "checkpoints", config, trainer, self.buffer, self.source)

    @torch.no_grad()
    def _log_row(self, output: Any) -> dict[str, float]:
        trainer = self.trainer
        row = {"step": trainer.n_training_steps, "tokens": trainer.n_training_samples, "loss": output.loss.item()}
        row |= {name: float(value) for name, value in output.losses.items()}
        row["l0"] = output.feature_acts.bool().sum().item() / len(output.sae_in)
        row["dead"] = trainer.dead_neurons.float().mean().item()
        return {name: round(value, 5) for name, value in row.items()}

    def save_inference_model(self, folder: Path) -> None:
        """Writes the SAE in sae_lens's inference format.

        This folds the activation scale and decoder norms into the weights, so the run cannot be trained further.
        """
        sae, scale = self.trainer.sae, self.trainer.activation_scaler.scaling_factor
        self.trainer.set_final_sae_metadata()
        if scale is not None:
            sae.fold_activation_norm_scaling_factor(scale)
        if self.config.architecture in ("standard", "gated", "jumprelu"):  # sae_lens folds the others on saving
            sae.fold_W_dec_norm()
        sae.save_inference_model(folder)
        if self.config.saved_dtype != "float32":
            weights = folder / SAE_WEIGHTS_FILENAME
            dtype = getattr(torch, self.config.saved_dtype)
            save_file({name: tensor.to(dtype) for name, tensor in load_file(weights).items()}, weights)

    def finish(self, model: LanguageModel, held_out: HeldOutText, batches: TokenBatches) -> Path:
        """Saves and evaluates the SAE, writes its settings and card, and deletes the checkpoints.

        Args:
            batches: those it was trained on, which the card describes.

        Raises:
            CheckpointError: the disk is full; the last checkpoint is intact.
        """
        partial, finished, checkpoints = (self.folder / name for name in ("sae.partial", "sae", "checkpoints"))
        try:
            shutil.rmtree(partial, ignore_errors=True)
            self.save_inference_model(partial)
            sae = load_trained(partial, model.device)
            evaluation = evaluate_autoencoder(sae, model, held_out)
            settings = json.dumps(self.config.as_dict(), indent=2)
            (partial / SETTINGS_FILE).write_text(settings + "\n", encoding="utf-8")
            write_card(partial, self.config, evaluation, sae.d_in, batches.describe())
            dropped, read = batches.duplicates
            counts = json.dumps({"duplicates": dropped, "conversations_read": read}, indent=2)
            (partial / TEXT_FILE).write_text(counts + "\n", encoding="utf-8")
            os.replace(partial, finished)
        except (OSError, SafetensorError) as exc:
            raise CheckpointError(finished, latest_checkpoint(checkpoints), exc) from exc
        shutil.rmtree(checkpoints)
        return finished


def load_model_to_train_on(config: AutoencoderConfig) -> LanguageModel:
    """Loads the config's language model on its device.

    Raises:
        ModelFolderError, HubError: see `core.models.loading.load_language_model`.
    """
    return load_language_model(
        Setup(
            name=config.name,
            model=config.model,
            sae="none",
            dtype=config.model_dtype,
            device=config.device,
            first_token=config.first_token,
        )
    )


def train_autoencoder(
    config: AutoencoderConfig,
    text_folder: Path,
    work_folder: Path,
    progress: Progress = lambda stage, share: None,
    model: LanguageModel | None = None,
    kept: KeptChunks | None = None,
    kept_held_out: KeptChunks | None = None,
) -> Path:
    """Trains, saves and evaluates one SAE. An interrupted run continues; a finished one is left as it is.

    Args:
        model: the config's language model, if it is already loaded.
        kept: activations shared with other jobs that train on the same ones.
        kept_held_out: those of the held-out text, shared with other jobs that are evaluated on it.

    Returns:
        `work_folder/<name>/sae`, which is complete or absent: `cfg.json` and `sae_weights.safetensors` for sae_lens's
        `SAE.load_from_disk`, the settings `training.json`, the figures `evaluation.json`, the card `README.md`.

    Raises:
        TrainingConfigError: a setting is wrong, or the folder belongs to a run with other settings.
        EmptyDatasetError, MissingFileError, PromptFileError, ConversationError: the texts cannot be used.
        CheckpointError: the disk is full; what was saved before is intact.
    """
    folder = work_folder / config.name
    if (finished := folder / "sae").exists():
        check_same_settings(json.loads((finished / SETTINGS_FILE).read_text(encoding="utf-8")), config, folder)
        return finished
    model = model or load_model_to_train_on(config)
    config = replace(config, device=str(model.device))
    texts = work_folder / "texts"
    batches = token_batches(config, model, text_folder, texts)
    progress(f"texts: {batches.describe()}", 0.0)
    held_out = held_out_text(config, model, text_folder, texts, kept_held_out)  # missing text fails before training
    run = AutoencoderRun(config, model, batches, folder, kept)
    run.train(progress)
    progress(f"{config.name}: evaluating on held-out text", 1.0)
    return run.finish(model, held_out, batches)
