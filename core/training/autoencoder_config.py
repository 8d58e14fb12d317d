"""Settings of one SAE training run, read from the `[autoencoder]` table of a TOML file."""

import json
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from core.errors import MissingFileError, TrainingConfigError
from core.training.corpus import TextSource
from core.training.precision import Autocast

Method = Literal["btp", "btf", "fast"]
Architecture = Literal["standard", "jumprelu", "topk", "gated", "batchtopk"]

_MAY_CHANGE = ("checkpoint_steps", "evaluation_tokens", "device", "deduplication_mb")
_OF_THE_SAE_ALONE = {  # settings that leave the activations it is trained on as they are
    *("name", "evaluation_sources", "evaluation_tokens", "deduplication_mb", "checkpoint_steps"),
    *("architecture", "expansion", "d_sae", "k", "sparsity", "sparsity_warmup_steps", "bandwidth", "initial_threshold"),
    *("apply_b_dec_to_input", "normalise", "tokens", "batch_size", "buffer_size", "lr", "lr_end", "warmup_steps"),
    *("beta1", "beta2", "aux_coefficient", "dead_window", "median_tokens"),
}


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """One SAE: the model and hook point, the method that forms the batches, the architecture, the optimisation.

    Lengths and losses are in the units of the normalised activations where `normalise` is set.
    """

    name: str
    model: str  # folder, relative to the working folder, or hub name
    hook_name: str
    model_dtype: str = "float32"
    sources: tuple[TextSource, ...]

    method: Method = "btp"
    context_size: int = 256  # tokens in a block (btp, btf)
    max_conversation_tokens: int = 8_192  # a longer conversation is truncated (fast)
    keep_special: bool = False  # whether to train on activations at special tokens, too
    skip_first: bool = False  # leave out the first position of every text or block, where it is an attention sink
    first_token: str | None = None  # special token that plain documents begin with; None: the tokenizer's own
    n_gram: int = 20  # a conversation with a run of so many words seen before is dropped; 0: none is (btf, fast)
    deduplication_mb: int = 1_024  # memory that deduplication may use
    evaluation_sources: tuple[TextSource, ...] = ()  # conversations to evaluate on, each run alone; else the sources

    architecture: Architecture = "topk"
    expansion: int = 16  # d_sae / d_in
    d_sae: int | None = None  # neurons, where they are no multiple of d_in; then `expansion` does not count
    k: int = 32  # active neurons a token (topk; batchtopk: on average)
    sparsity: float = 5.0  # lambda: of the L1 norm (standard, gated) or the L0 norm (jumprelu)
    sparsity_warmup_steps: int = 0  # lambda rises linearly over these
    bandwidth: float = 0.05  # of JumpReLU's straight-through estimator
    initial_threshold: float = 0.01  # of JumpReLU
    apply_b_dec_to_input: bool = False  # subtract the decoder bias before encoding
    normalise: bool = True  # scale activations to a mean norm of sqrt(d_in); folded into the weights at the end

    tokens: int = 3_000_000  # activations to train on, rounded up to whole steps
    batch_size: int = 2_048  # activations in a step
    buffer_size: int = 65_536  # activations in the mixing buffer
    forward_tokens: int = 8_192  # tokens in one forward pass of the language model
    lr: float = 1e-3
    lr_end: float = 1e-4  # the cosine ends here
    warmup_steps: int = 50
    beta1: float = 0.9
    beta2: float = 0.999
    aux_coefficient: float = 1.0  # weight of the loss that revives dead neurons (topk, batchtopk)
    dead_window: int = 100_000  # tokens without firing after which a neuron counts as dead
    median_tokens: int = 16_384  # activations whose geometric median the decoder bias starts from
    autocast: Autocast = "auto"  # products in bfloat16; auto: where the device has units for them
    device: str = "auto"  # auto: cuda, else mps, else cpu
    seed: int = 0
    checkpoint_steps: int = 200
    evaluation_tokens: int = 200_000  # held-out tokens that the card's figures are measured on

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise TrainingConfigError(f"method must be one of {list(get_args(Method))}; it is {self.method!r}")
        if self.architecture not in get_args(Architecture):
            known = list(get_args(Architecture))
            raise TrainingConfigError(f"architecture must be one of {known}; it is {self.architecture!r}")
        if self.autocast not in (True, False, "auto"):
            raise TrainingConfigError(f"autocast must be true, false or 'auto'; it is {self.autocast!r}")
        for name in ("expansion", "k", "tokens", "batch_size", "buffer_size", "context_size", "checkpoint_steps"):
            if getattr(self, name) <= 0:
                raise TrainingConfigError(f"{name} must be above 0; it is {getattr(self, name)}")
        if self.tokens < self.batch_size:
            raise TrainingConfigError(f"tokens ({self.tokens}) must be at least batch_size ({self.batch_size})")
        if self.warmup_steps == self.steps:  # sae_lens's schedule would divide by 0
            raise TrainingConfigError(
                f"warmup_steps ({self.warmup_steps}) leaves no step for the cosine; tokens / batch_size is as many"
            )
        if not self.sources:
            raise TrainingConfigError(f"{self.name!r} names no text: add [[autoencoder.sources]] with path and licence")

    @property
    def steps(self) -> int:
        """As many as it takes to train on all tokens."""
        return -(-self.tokens // self.batch_size)

    @property
    def layer(self) -> str:
        """The hook point without its prefix, for tables: 'blocks.2'."""
        return self.hook_name.rpartition(".")[0]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def activation_stream(self) -> tuple[object, ...]:
        """The settings that decide which activations come, in their order: jobs of the same stream can share them."""
        return tuple(getattr(self, field.name) for field in fields(self) if field.name not in _OF_THE_SAE_ALONE)

    def identity(self) -> dict[str, Any]:
        """The settings that decide which weights come out; a checkpoint serves only a run of the same."""
        return {key: value for key, value in self.as_dict().items() if key not in _MAY_CHANGE}


def read_table(path: Path) -> dict[str, Any]:
    """A training TOML file as a dictionary.

    Raises:
        MissingFileError: no such file.
        TrainingConfigError: no TOML.
    """
    if not path.is_file():
        raise MissingFileError(path, "see data/configs for examples")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise TrainingConfigError(f"'{path}' is no TOML file: {exc}") from exc


def config_from_table(table: dict[str, Any], where: str) -> AutoencoderConfig:
    """A config from an `[autoencoder]` table; `where` names it in errors.

    Raises:
        TrainingConfigError: an unknown or a missing key, or a value out of range.
    """
    known = {f.name for f in fields(AutoencoderConfig)}
    if unknown := sorted(set(table) - known):
        raise TrainingConfigError(f"{where}: unknown key {unknown[0]!r}; it knows {', '.join(sorted(known))}")
    if missing := [name for name in ("name", "model", "hook_name") if name not in table]:
        raise TrainingConfigError(f"{where}: the key {missing[0]!r} is missing")
    try:
        sources = {key: tuple(TextSource(**s) for s in table.get(key, ())) for key in ("sources", "evaluation_sources")}
        return AutoencoderConfig(**{**table, **sources})
    except TypeError as exc:
        raise TrainingConfigError(f"{where}: {exc}") from exc


def load_autoencoder_config(path: Path) -> AutoencoderConfig:
    """Reads the `[autoencoder]` table of a TOML file.

    Raises:
        MissingFileError, TrainingConfigError: see `read_table` and `config_from_table`.
    """
    table = read_table(path)
    if "autoencoder" not in table:
        raise TrainingConfigError(f"'{path}' has no [autoencoder] table")
    return config_from_table(table["autoencoder"], f"'{path}'")
