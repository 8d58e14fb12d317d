"""Settings of one SAE training run, read from the `[autoencoder]` table of a TOML file."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from core.errors import TrainingConfigError
from core.files import require_file
from core.settings import HookName
from core.training.corpus import TextSource
from core.training.precision import Autocast
from core.validated import (
    Context,
    Count,
    Dtype,
    LearningRate,
    Name,
    NotNegative,
    Positive,
    Seed,
    Several,
    Text,
    Whole,
    from_table,
    read_toml,
    validated,
)

Method = Literal["btp", "btf", "fast"]
Architecture = Literal["standard", "jumprelu", "topk", "gated", "batchtopk"]
Width = Annotated[int, Field(ge=1, le=2**24)]  # the largest published SAE has this many neurons
Momentum = Annotated[float, Field(ge=0, lt=1)]

_MAY_CHANGE = ("checkpoint_steps", "evaluation_tokens", "cross_entropy_tokens", "device", "deduplication_mb")
_OF_THE_SAE_ALONE = {  # settings that do not affect the training tokens, besides `seed_of_order`
    *("name", "hook_name", "seed", "text_seed", "saved_dtype", "deduplication_mb", "checkpoint_steps"),
    *("evaluation_sources", "evaluation_skip_first", "evaluation_tokens", "cross_entropy_tokens", "variant"),
    *("architecture", "expansion", "d_sae", "k", "sparsity", "sparsity_warmup_steps", "bandwidth", "initial_threshold"),
    *(
        "apply_b_dec_to_input",
        "normalise",
        "normalise_decoder",
        "tokens",
        "batch_size",
        "buffer_size",
        "lr",
        "lr_end",
        "warmup_steps",
    ),
    *("beta1", "beta2", "aux_coefficient", "dead_window", "median_tokens"),
}


@validated(TrainingConfigError)
class AutoencoderConfig:
    """One SAE: the model and hook point, the method that forms the batches, the architecture, the optimisation.

    Lengths and losses are in the units of the normalised activations where `normalise` is set.

    Raises:
        TrainingConfigError: a value is not allowed or out of range, or two values contradict each other.
    """

    name: Name  # of the folder that it is trained in
    variant: Name | None = None  # what tells this SAE from others of its method, for tables
    model: Text  # folder, relative to the working folder, or hub name
    hook_name: HookName
    model_dtype: Dtype = "float32"
    sources: Several[TextSource]

    method: Method = "btp"
    context_size: Context = 256  # tokens in a block (btp, btf)
    max_conversation_tokens: Context = 8_192  # a longer conversation is truncated (fast)
    keep_special: bool = False  # whether to train on activations at special tokens, too
    skip_first: bool = False  # leave out the first position of every text or block, where it is an attention sink
    in_template: bool = False  # each plain document is a user's message in the chat template (btp)
    first_token: Text | None = None  # special token that plain documents begin with; None: the tokenizer's own
    n_gram: Whole = 20  # drop conversations that repeat this many words in a row; 0: keep all (btf, fast)
    deduplication_mb: Count = 1_024  # memory limit of deduplication
    evaluation_sources: Several[TextSource] = ()  # conversations to evaluate on, each run alone; by default the sources
    evaluation_skip_first: bool | None = None  # leave the first position out of the figures; None: as in training

    architecture: Architecture = "topk"
    expansion: Annotated[int, Field(ge=1, le=4_096)] = 16  # d_sae / d_in
    d_sae: Width | None = None  # number of neurons; replaces `expansion`
    k: Count = 32  # active neurons a token (topk; batchtopk: on average)
    sparsity: NotNegative = 5.0  # lambda: of the L1 norm (standard, gated) or the L0 norm (jumprelu)
    sparsity_warmup_steps: Whole = 0  # lambda rises linearly over these
    bandwidth: Positive = 0.05  # of JumpReLU's straight-through estimator
    initial_threshold: NotNegative = 0.01  # of JumpReLU
    apply_b_dec_to_input: bool = False  # subtract the decoder bias before encoding
    normalise_decoder: bool = False  # decoder rows keep unit norm at every step, not only at first and in the saved SAE
    normalise: bool = True  # scale activations to a mean norm of sqrt(d_in); folded into the weights at the end
    saved_dtype: Dtype = "float32"  # of the saved weights, on which the card's figures are measured

    tokens: Count = 3_000_000  # activations to train on, rounded up to whole steps
    batch_size: Count = 2_048  # activations in a step
    buffer_size: Count = 65_536  # activations in the mixing buffer
    forward_tokens: Count = 8_192  # tokens in one forward pass of the language model
    lr: LearningRate = 1e-3
    lr_end: NotNegative = 1e-4  # the cosine ends here
    warmup_steps: Whole = 50
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    aux_coefficient: NotNegative = 1.0  # weight of the loss that revives dead neurons (topk, batchtopk)
    dead_window: Count = 100_000  # tokens without firing after which a neuron counts as dead
    median_tokens: Count = 16_384  # activations whose geometric median the decoder bias starts from
    autocast: Autocast = "auto"  # products in bfloat16; auto: where the device has units for them
    device: Text = "auto"  # auto: cuda, else mps, else cpu
    seed: Seed = 0
    text_seed: Seed | None = None  # of the order of the texts, so that runs of several seeds share activations
    checkpoint_steps: Count = 200
    evaluation_tokens: Count = 200_000  # held-out tokens that the card's figures are measured on
    cross_entropy_tokens: Count | None = None  # of these, for the cross-entropy, which is slow to measure; None: all

    def __post_init__(self) -> None:
        if not self.sources:
            raise TrainingConfigError(f"{self.name!r} names no text: add [[autoencoder.sources]] with path and licence")
        if self.tokens < self.batch_size:
            raise TrainingConfigError(f"tokens ({self.tokens}) must be at least batch_size ({self.batch_size})")
        if self.buffer_size % (2 * self.batch_size):
            raise TrainingConfigError(
                f"buffer_size is a multiple of twice batch_size ({2 * self.batch_size}), as half of it is trained on "
                f"before each refill; it is {self.buffer_size}"
            )
        if self.warmup_steps >= self.steps:  # where they are equal, sae_lens's schedule would divide by 0
            raise TrainingConfigError(
                f"warmup_steps ({self.warmup_steps}) leaves no step for the cosine: tokens / batch_size gives "
                f"{self.steps} in all; lower it, or raise tokens"
            )
        if self.lr_end > self.lr:
            raise TrainingConfigError(f"lr_end is from 0 to lr ({self.lr}), not {self.lr_end}")
        if self.d_sae is not None:
            self.check_k(0)

    def check_k(self, d_in: int) -> None:
        """Raises TrainingConfigError where the SAE, on activations of `d_in` dimensions, has fewer than k neurons."""
        d_sae = self.width(d_in)
        if self.architecture in ("topk", "batchtopk") and self.k > d_sae:
            raise TrainingConfigError(f"k is a whole number from 1 to the SAE's {d_sae} neurons, not {self.k}")

    def width(self, d_in: int) -> int:
        """How many neurons the SAE has on activations of `d_in` dimensions."""
        return self.d_sae or self.expansion * d_in

    @property
    def steps(self) -> int:
        """Number of training steps: enough to train on all tokens."""
        return -(-self.tokens // self.batch_size)

    @property
    def layer(self) -> str:
        """The hook point without its prefix, for tables: 'blocks.2'."""
        return self.hook_name.rpartition(".")[0]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @property
    def seed_of_order(self) -> int:
        """Seed of the order of the training texts."""
        return self.seed if self.text_seed is None else self.text_seed

    def token_stream(self) -> tuple[object, ...]:
        """The settings that determine the training tokens and their order.

        Jobs with equal ones can share the activations of one forward pass, each at its hook point.
        """
        settings = (getattr(self, field.name) for field in fields(self) if field.name not in _OF_THE_SAE_ALONE)
        return (*settings, self.seed_of_order)

    def identity(self) -> dict[str, Any]:
        """The settings that determine the trained weights; a checkpoint fits only a run with the same ones."""
        return {key: value for key, value in self.as_dict().items() if key not in _MAY_CHANGE}


def read_table(path: Path) -> dict[str, Any]:
    """A training TOML file as a dictionary.

    Raises:
        MissingFileError: no such file.
        TrainingConfigError: the file is not TOML.
    """
    return read_toml(require_file(path, "see data/configs for examples"), TrainingConfigError)


def config_from_table(table: object, where: str) -> AutoencoderConfig:
    """A config from an `[autoencoder]` table; `where` names it in errors.

    Raises:
        TrainingConfigError: an unknown or a missing key, or a value out of range.
    """
    # without sources, the error tells how to name some
    config = from_table(AutoencoderConfig, {"sources": [], **table} if isinstance(table, dict) else table, where)
    if (d_in := _residual_width(Path(config.model))) is not None and "hook_resid" in config.hook_name:
        try:
            config.check_k(d_in)
        except TrainingConfigError as exc:
            raise TrainingConfigError(f"{where}: {exc}") from None
    return config


def _residual_width(model: Path) -> int | None:
    """Width of the residual stream by the model folder's config.json; None if there is no such folder or entry."""
    try:
        table = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    widths = [table.get(key) for key in ("hidden_size", "n_embd")] if isinstance(table, dict) else []
    return next((width for width in widths if isinstance(width, int)), None)


def load_autoencoder_config(path: Path) -> AutoencoderConfig:
    """Reads the `[autoencoder]` table of a TOML file.

    Raises:
        MissingFileError, TrainingConfigError: see `read_table` and `config_from_table`.
    """
    table = read_table(path)
    if "autoencoder" not in table:
        raise TrainingConfigError(f"'{path}' has no [autoencoder] table")
    return config_from_table(table["autoencoder"], f"[autoencoder] of '{path}'")
