"""Terms of the text experiment: its prompts, the columns that Generate does not have, and its figures."""

from pages.shared.glossary.term import Term

TEXT = {
    "text prompts": Term(
        "Prompts that are continued",
        "Metaphors or openings that fit any topic; the topic's own prompts, held out; requests about none of them.",
        "Metaphors are the Topic Alignment paper's 12 for medicine (Table 2); other topics continue the openings of "
        "`data/continuations.txt`. Aligned (Table 7): every second prompt of the topic; its other prompts then score, "
        "fine-tune and measure. Unaligned (Table 8): the first 20 of `data/unaligned.txt`.",
    ),
    "text columns": Term(
        "Columns of the texts",
        "Main: the paper's ways of steering, the prompt, and the three others that did best by concept and fluency.",
        "Open markers are controls and variants, in the colour of what they are compared with.",
    ),
    "text plane": Term(
        "Topic against fluency",
        "How close each way of steering brings the texts to the topic, and how fluent they stay: low and left is best.",
        "Bars are 95% bootstrap intervals over prompts; dotted lines: the unsteered texts.",
    ),
    "published texts": Term(
        "Our figures and the paper's",
        "Means measured here beside those of Tables 2, 7 and 8 of the Topic Alignment paper.",
        "Model, SAE, reference prompts and, but for the metaphors, prompts are others: compare the order of the ways "
        "of steering, not the values. The paper's ± is a 95% normal interval.",
    ),
    "text n": Term(
        "Prompts and seeds",
        "How many prompts of each set are continued, and how many texts each gets, with as many seeds.",
        "Texts of one prompt are not independent: intervals are over prompts.",
    ),
    "ft": Term(
        "Fine-tuned",
        "All weights of the model trained on the topic's prompts; nothing is edited.",
        "The paper's baseline. Ten passes by transformers' Trainer; the paper does not give its settings.",
    ),
    "swap-shuffled": Term(
        "Swap, shuffled", "Swap with the scores shuffled among the scored neurons: the same edit without the topic."
    ),
    "clamped neurons": Term(
        "Clamped controls",
        "Clamp, tuned: the best-scored neurons. Random; strawman: those that fire most on the topic's prompts. Output "
        "score: of the 5% best-scored, those that move the next token most.",
        "Their multiplier, and the alpha of add and vector, is the one of five that did best on eight other prompts, "
        "by concept and fluency.",
    ),
    "variants": Term(
        "Variants",
        "Swap or clamp with one choice changed: the SAE's error kept, as many neurons as the SAE has (matched count), "
        "only tokens with a neuron of a score above 0.6 within reach, scores for neurons active in at least 1 or 100 "
        "prompts, 1 or 20 clamped neurons.",
    ),
    "accepted": Term(
        "Accepted",
        "Share of texts that a classifier of well-formed English accepts: the paper's COLA.",
        "The classifier that comes with the app, a probe of SmolLM2's activations, is weak; its card says how weak. A "
        "better one is named in "
        "`STEERSCOPE_ACCEPTABILITY`. Not available where there is none.",
    ),
    "distinct_3": Term("Distinct-3", "Different runs of three tokens over all of them; lower is more repetitive."),
    "concept": Term(
        "Concept",
        "How much of the topic is in the text, 0 to 2: 2 at topic percentile 0, 1 at 50.",
        "AxBench has a language model judge it; here it is measured.",
    ),
    "fluency": Term(
        "Fluency",
        "2 for a text as likely and as varied as the unsteered ones, less by the worse of the two ratios.",
        "Likely: perplexity against the median of the unsteered continuations; varied: distinct-2 against theirs.",
    ),
    "concept_fluency": Term(
        "Concept and fluency",
        "Harmonic mean of concept and fluency, 0 to 2: low where either is.",
        "As AxBench puts its scores together; of single texts, then averaged.",
    ),
    "text interval": Term(
        "Mean and interval",
        "Mean over prompts with its 95% bootstrap interval; texts of one prompt with several seeds count as one.",
    ),
    "cost": Term(
        "Cost",
        "Seconds that each way of steering takes: once for a setup, for each topic, and for each prompt of new tokens.",
        "Timed one by one, the ways of steering in turns, so that other load on the machine meets all of them. "
        "Fine-tuning is transformers' Trainer, 10 passes over 20 prompts, in bfloat16 where the hardware has it.",
    ),
    "cost steps": Term(
        "Steps of the cost",
        "What set-up and scoring are made of; per token of the reference prompts, or of the topic's.",
        "The set-up's steps were timed where the store was built, which may have been another machine.",
    ),
    "results": Term(
        "Results",
        "Tables that experiments saved for this setup, by the command `evaluate` or on the other pages.",
        "An experiment that is run again replaces its tables.",
    ),
}
