"""The fine-tuning baseline (column FT of the Topic Alignment paper): all weights trained on the topic's prompts."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from transformers import DataCollatorForLanguageModeling, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from core.errors import DivergedError, EmptyTopicError
from core.models.language_model import LanguageModel
from core.models.loading import not_finite
from core.training.precision import Autocast, in_bfloat16


@dataclass(frozen=True, kw_only=True)
class FinetuningSettings:
    """Training settings of the baseline; ours, as the paper does not give them."""

    epochs: int = 10
    batch_size: int = 10  # each step passes over all weights several times, whatever its size
    lr: float = 1e-4  # AdamW, linear decay
    max_length: int = 128  # tokens per prompt; longer ones are truncated
    seed: int = 0
    autocast: Autocast = "auto"  # matrix products in bfloat16; "auto": where the hardware multiplies it


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned copy of a language model, with its training time and losses."""

    model: LanguageModel
    seconds: float
    losses: list[float]  # mean of each epoch, in nats per token


class _Reports(TrainerCallback):
    """Tells how much of the training is done, after every step."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        self._progress = progress

    def on_step_end(self, args: object, state: Any, control: object, **more: object) -> None:
        self._progress(state.global_step / state.max_steps)


def finetune(
    model: LanguageModel,
    prompts: Sequence[str],
    settings: FinetuningSettings | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Finetuned:
    """Trains a copy of the model on the prompts by next-token loss; the model itself is unchanged.

    Args:
        progress: called after every step with the share that is done, 0 to 1.

    Raises:
        EmptyTopicError: there are no prompts.
        DivergedError: the weights are no numbers any more.
    """
    if not prompts:
        raise EmptyTopicError
    settings = settings or FinetuningSettings()
    rows = [{"input_ids": model.tokenise(prompt, max_length=settings.max_length).ids} for prompt in prompts]
    tokenizer = copy.deepcopy(model.tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # a new module rather than a deep copy, which would share the hooks of the original
    trained = type(model.model)(copy.deepcopy(model.model.config))
    trained.load_state_dict(model.model.state_dict())
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            model=trained,
            args=_arguments(Path(folder), settings, model.device),
            train_dataset=cast(Any, rows),  # Trainer accepts a list
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            callbacks=[_Reports(progress)],
        )
        trainer.remove_callback(PrinterCallback)  # it writes to stdout, where commands print their tables
        trainer.train()
        trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # ends the autocast
    if wrong := not_finite(trained.named_parameters()):
        raise DivergedError(
            f"fine-tuning {model.name} ended with no number in {wrong}", f"lr ({settings.lr:g})", "lower it"
        )
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    trained.to(model.device)
    copied = LanguageModel(
        f"{model.name} (fine-tuned)",
        trained.eval().requires_grad_(False),
        model.tokenizer,
        chat=model.chat,
        first_token=model.first_token,
    )
    copied.prepend_bos = model.prepend_bos
    return Finetuned(copied, time.perf_counter() - start, losses)


def _arguments(folder: Path, settings: FinetuningSettings, device: torch.device) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr,
        seed=settings.seed,
        save_strategy="no",
        logging_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=in_bfloat16(settings.autocast, device),
    )
