"""Frozen settings, checked when they are made, and the location of the stores."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from core.errors import SettingsError, UsageError
from core.validated import Count, Share, Text, validated

Summary = Literal["sum", "max", "mean", "count"]
Distance = Literal["euclidean", "squared"]
Variant = Literal["mean", "variance"]

# names of a block as nnsight and transformers (`model.layers.6`, `transformer.h.6`) and sparsify (`layers.6`) have them
_MODULE = re.compile(r"(?:(?:model|transformer|gpt_neox|language_model|decoder)\.)*(?:layers|h)\.(\d{1,4})(\.mlp)?")

DEFAULT_STORE = Path(__file__).resolve().parent.parent / "data" / "store"
STORE_VARIABLE = "STEERSCOPE_STORE"
APP_STORE = "app.duckdb"  # the application's own results, beside the folders of the stores


def canonical_hook(name: str) -> str:
    """TransformerLens's name of a block's output, or its MLP's, that another library names; other names unchanged."""
    found = _MODULE.fullmatch(name.strip())
    return name if found is None else f"blocks.{int(found[1])}.hook_{'mlp_out' if found[2] else 'resid_post'}"


HookName = Annotated[Text, AfterValidator(canonical_hook)]  # of a hook point, by TransformerLens's name


@validated(SettingsError)
class ScoreSettings:
    """How neurons are scored against a topic: Topic Alignment paper, section 3.1.

    Raises:
        SettingsError: a value is not allowed or out of range.
    """

    summary: Summary = "sum"  # prompt-level activation; sum (the paper's) is divided by the prompt's total
    distance: Distance = "euclidean"  # squared: also what cosine distance gives, dist^2 / 2 on unit vectors
    variant: Variant = "mean"  # variance: the distance squared once more, inside g
    min_prompts: Count = 20  # a neuron active in fewer reference prompts has no score
    max_density: Share | None = None  # ours: one active on a larger share of reference tokens has none either

    @property
    def distance_power(self) -> int:
        """g is the weighted mean of the Euclidean distance raised to this power."""
        return (2 if self.distance == "squared" else 1) * (2 if self.variant == "variance" else 1)


@validated(SettingsError)
class GenerationSettings:
    """How text is decoded; the defaults are the Topic Alignment paper's (section 4.3): 64 tokens from the top 5.

    Raises:
        SettingsError: a value is out of range.
    """

    max_new_tokens: Count = 64
    top_k: Count = 5  # sample among the k likeliest tokens
    temperature: Annotated[float, Field(gt=0, title="for none, use greedy")] = 1.0
    greedy: bool = False  # the likeliest token always; top_k, temperature and seed unused
    chat: bool | None = None  # the prompt is a user's message in the chat template; None: as the setup's prompts
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] = 0  # the same for every column; torch takes 64 bits


def given_path(text: str | Path) -> Path:
    """A path as somebody typed it, with `~` for their home.

    Raises:
        UsageError: it is empty, or names a user's home that there is not.
    """
    if not str(text).strip() or "\0" in str(text):
        raise UsageError("a path is not empty and has no null character; '.' is the working folder")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"no such home folder: '{text}'; write the path out") from None


def store_root(option: Path | None = None) -> Path:
    """Folder of the stores: the option, else `$STEERSCOPE_STORE`, else `data/store` of this checkout."""
    if option is not None:
        return option
    return given_path(os.environ[STORE_VARIABLE]) if os.environ.get(STORE_VARIABLE) else DEFAULT_STORE
