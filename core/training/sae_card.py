"""The card of a trained SAE: README.md beside its weights, with data, licences, settings and measured figures."""

from pathlib import Path

from core.training.autoencoder_config import AutoencoderConfig
from core.training.sae_evaluation import Evaluation, MeanSquaredError

_METHODS = {
    "btp": "BT(P): plain text, concatenated, cut into blocks of {context_size:,} tokens",
    "btf": "BT(F): conversations in the chat template, concatenated, cut into blocks of {context_size:,} tokens",
    "fast": "FAST: each conversation in the chat template, run alone, truncated",
}


def _sparsity(config: AutoencoderConfig) -> str:
    if config.architecture in ("topk", "batchtopk"):
        return f"k = {config.k}"
    return f"lambda = {config.sparsity:g}"


def _firsts(config: AutoencoderConfig) -> str:
    """What the card says of each text's first token and position, where the config names them."""
    alone = " (plain documents run alone, too)" if config.method == "fast" else ""
    token = f"\n- Plain documents begin with `{config.first_token}`{alone}." if config.first_token else ""
    sink = (
        "\n- The first position of each text is an attention sink, with a norm far above all others: it is left out of "
        "training and of all figures over activations, and edits leave it as it is."
    )
    return token + (sink if config.skip_first else "")


def _error_row(name: str, error: MeanSquaredError) -> str:
    if error.by_sequence is None:
        return f"| {name} | no such token | | |"
    return f"| {name} | {error.by_sequence:.4f} ({error.log2:.3f}) | {error.pooled:.4f} | {error.tokens:,} |"


def card(config: AutoencoderConfig, evaluation: Evaluation, d_in: int, data: str) -> str:
    """The card's text in Markdown; `data` describes the training text of one pass."""
    sources = "\n".join(f"| `{s.path}` | {s.licence} | {s.share:g} |" for s in config.sources)
    special = "trained on, too" if config.keep_special else "left out"
    return f"""# {config.name}

A sparse autoencoder for `sae_lens` (`SAE.load_from_disk`) on the residual stream of `{config.model}`
at `{config.hook_name}`: {config.architecture}, {config.width(d_in):,} neurons over {d_in} dimensions
({_sparsity(config)}), decoder rows of unit norm.

## Training

- {_METHODS[config.method].format_map(config.as_dict())}; activations at special tokens {special}.{_firsts(config)}
- {data}.
- {config.steps * config.batch_size:,} activations in batches of {config.batch_size:,}, drawn from a mixing buffer of
  {config.buffer_size:,}; Adam, learning rate {config.lr:g} with {config.warmup_steps} steps of warm-up and a cosine to
  {config.lr_end:g}; seed {config.seed}.
- The decoder bias began at the geometric median of {config.median_tokens:,} activations.

| text | licence | share of its documents |
| --- | --- | --- |
{sources}

1% of the documents, by a hash of their text, is never trained on.

## Measured on {evaluation.tokens:,} activations of held-out text ({evaluation.sequences:,} sequences)

| figure | value |
| --- | --- |
| active neurons a token (L0) | {evaluation.l0:.1f} |
| explained variance | {evaluation.explained_variance:.4f} |
| neurons that never fired there | {evaluation.dead_share:.2%} |
| cross-entropy recovered | {evaluation.ce_recovered:.4f} |
| cross-entropy (nats): model / with the SAE / with zeros | {evaluation.ce_model:.4f} / \
{evaluation.ce_spliced:.4f} / {evaluation.ce_zero:.4f} |

| MSE over | mean over sequences (log2) | mean over tokens | tokens |
| --- | --- | --- | --- |
{_error_row("all tokens" if config.keep_special else "all tokens but special ones", evaluation.mse_all)}
{_error_row("special tokens (role words and markers)", evaluation.mse_special)}
{_error_row("markers alone, without role words", evaluation.mse_special_without_roles)}
{_error_row("all tokens of the template, line breaks too", evaluation.mse_template)}
{_error_row("the first position of each sequence", evaluation.mse_first)}
"""


def write_card(folder: Path, config: AutoencoderConfig, evaluation: Evaluation, d_in: int, data: str) -> None:
    """Writes the figures and the card into the SAE's folder."""
    evaluation.save(folder)
    (folder / "README.md").write_text(card(config, evaluation, d_in, data), encoding="utf-8")
