"""Terms of the SAE training page."""

from pages.shared.glossary.term import Term

TRAINING = {
    "fast": Term(
        "FAST",
        "Finetuning-aligned Sequential Training: each conversation, in the model's chat template, is run alone.",
        "Truncated only where it is longer than a limit (8,192 tokens in the paper).",
    ),
    "btp": Term(
        "BT(P)",
        "Block training on pretraining text: documents are concatenated and cut into blocks of one length.",
    ),
    "btf": Term(
        "BT(F)",
        "Block training on fine-tuning data: conversations in the chat template, concatenated and cut into blocks.",
    ),
    "duplicates": Term(
        "Duplicates",
        "How many conversations 20-gram deduplication dropped before training; not known of older SAEs.",
        "A conversation that has a run of 20 words of an earlier one is dropped: Algorithm 1 of the FAST paper.",
    ),
    "special tokens": Term(
        "Special tokens and role words",
        "What the chat template adds: marks such as <|im_start|>, and words such as user that name who speaks.",
        "Known by their place, never by their spelling: a 'user' that somebody writes is content.",
    ),
    "sparsity": Term(
        "Lambda",
        "Weight of the penalty on activity in the loss: of L1 (Standard, Gated) or L0 (JumpReLU); for TopK, k.",
        "The larger lambda, the fewer active neurons. k is the number of active neurons itself.",
    ),
    "mse": Term(
        "MSE",
        "Squared error of the reconstruction by dimension: mean over tokens, then over held-out texts.",
        "Eq. 7 of the FAST paper as we read it. Shown as log2, averaged over seeds (1 lower is half the error), and "
        "raw: 2 to the power of that mean.",
    ),
    "mse special": Term(
        "MSE of special tokens",
        "The same error over the template's role words and the markers around them alone.",
        "The tokens of the FAST paper's Table 11. The template's line breaks are not among them: they are counted with "
        "all of the template.",
    ),
    "mse template": Term(
        "MSE of the template", "The same error over all tokens that the template adds, of which many are line breaks."
    ),
    "mse first": Term(
        "MSE of the first position",
        "The same error over the first token of each text alone.",
        "In many models it is an attention sink, with a norm a hundred times the others'. An SAE that was not trained "
        "on it does not know it, and all other figures leave it out.",
    ),
    "mse special without roles": Term(
        "MSE of special tokens without role words", "The same error over special tokens, words such as user left out."
    ),
    "l0": Term(
        "L0",
        "Number of active neurons a token, mean over held-out tokens.",
        "More active neurons reconstruct better: errors compare fairly only at one L0.",
    ),
    "explained_variance": Term(
        "Explained variance",
        "Share of the activations' variance that the SAE reconstructs; 1 is all.",
        "A few huge directions flatter it; cross-entropy recovered does not rest on them.",
    ),
    "dead_share": Term("Dead neurons", "Share of the neurons that fire on none of the held-out tokens."),
    "ce_recovered": Term(
        "Cross-entropy recovered",
        "How well the model predicts with the SAE in place: 1 as well as without it, 0 as badly as with zeros there.",
    ),
    "matched l0": Term(
        "Matched L0",
        "Figures at the same L0 for all methods, interpolated between the SAEs of each method and seed.",
        "Nothing is extrapolated: a method whose SAEs all lie on one side of that L0 has no figures.",
    ),
    "spread": Term("Spread", "After the ±: sample standard deviation over seeds; none where there is one seed."),
    "training loss": Term(
        "Training loss",
        "Squared error plus lambda times the penalty, of the batch at hand, in units of the scaled activations.",
        "Losses of different lambdas do not compare; the figures of held-out text do.",
    ),
}
