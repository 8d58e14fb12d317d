"""Terms of steering: its columns and its controls."""

from pages.shared.glossary.term import Term

STEERING = {
    "column": Term(
        "Column",
        "One way of steering; every column continues the same prompt with the same seed.",
    ),
    "none": Term("Original", "The language model as it is."),
    "sae": Term("SAE", "Each activation at the hook point replaced by the SAE's reconstruction; nothing is steered."),
    "clamp": Term(
        "Clamp",
        "The best-scored neurons are forced to a multiple of their largest reference activation, on every token.",
    ),
    "swap": Term(
        "Swap",
        "The active neurons of each token are chosen anew by pre-activation times score, each keeping its own value.",
        "Eq. 3. What it can change depends on the SAE's activation function; the page says so.",
    ),
    "weight": Term("Weight", "Like swap, but the weighted values are kept: the paper's unstable ablation."),
    "add": Term(
        "Add",
        "The decoder rows of one or several neurons are added, each alpha times; the SAE encodes nothing.",
        "x + alpha W_dec[i], Eq. 8 of the FAST paper.",
    ),
    "vector": Term(
        "Vector",
        "A direction is added: mean activation on the topic's prompts less that on prompts about none of the topics.",
        "The difference in means, the usual baseline: no SAE is used. Over ordinary tokens, at the setup's hook point.",
    ),
    "prompt": Term(
        "Prompt",
        "Nothing is edited: 'Write about TOPIC: ' stands before the prompt.",
        "The figures leave these words out: perplexity is that after the bare prompt.",
    ),
    "keep error": Term(
        "Keep the SAE's error",
        "Adds back what the SAE does not reconstruct, so that only the edit itself changes the text.",
        "x' = x + decode(a') - decode(a). The column SAE stays the full replacement. Off in the paper.",
    ),
    "preset": Term(
        "Preset",
        "Strengths that go together. Moderate: the SAE's error kept, clamp at the neuron's maximum, a sharper swap. "
        "The paper's: the error dropped, clamp at ten times the maximum, swap by the plain score.",
        "Moderate was chosen by texts on two topics of the embedded setup: the topic shows and the text stays English. "
        "The Topic Alignment paper's settings turn its texts into word salad or change little.",
    ),
    "as a chat": Term(
        "As a chat",
        "Puts the prompt into the model's chat template, as a user's message that the model answers. Off: the model "
        "continues the prompt as plain text.",
    ),
    "clamp neurons": Term("Clamped neurons", "How many of the best-scored neurons clamp forces."),
    "multiplier": Term("Multiplier", "Clamp's value, times the neuron's reference value; 10 in the paper."),
    "reference value": Term(
        "Reference value",
        "What clamp multiplies: the neuron's largest activation on the reference prompts, or its own on the token.",
    ),
    "matched count": Term(
        "Matched count",
        "On JumpReLU and Gated, swap keeps as many neurons a token as the SAE did, where it could only drop some.",
        "Among positive pre-activation times score it keeps those farthest above the neuron's threshold, or closest to "
        "it. TopK keeps as many already; on ReLU every neuron above 0 is active, so there is none to admit.",
    ),
    "sharpness": Term(
        "Sharpness of swap",
        "Swap chooses a token's neurons by pre-activation times score to this power; 1 is the paper's.",
        "Scores lie close together, so that 1 often changes few neurons; from 2 to 3 the text moves towards the topic, "
        "and far above that it falls apart. The neurons that are chosen keep their own values, and every figure uses "
        "the plain score.",
    ),
    "added": Term(
        "Added neurons",
        "What Add adds, as in 17 12, at the strength beside, or 17:40 12:-5 (neuron:alpha); empty: the topic's best "
        "neuron, as strongly as it ever fired on a reference prompt.",
        "Alpha counts decoder rows, as the SAE has them.",
    ),
    "strength": Term(
        "Strength",
        "Alpha of the added neurons, times each one's largest activation on the reference prompts; below 0 it is taken "
        "away.",
        "1 is as strong as the neuron ever was there. Neurons with an alpha of their own keep that.",
    ),
    "seeds": Term(
        "Seeds",
        "How many seeds to write with, one after the other from the first. From 2 on the figures are means with 95% "
        "intervals.",
        "Bootstrap intervals over the seeds. From 5 seeds on, a column is marked as best in a row where it differs "
        "from every other one on the same seeds: the interval of the paired difference leaves out 0.",
    ),
    "system message": Term(
        "System message",
        "What the model is told before the conversation; both columns get it. Empty: what the template itself says.",
        "It holds from the next answer on; regenerate a turn to have it there.",
    ),
    "shading": Term(
        "Shading",
        "Contamination: from the 2nd to the 98th percentile of the tokens shown, as its shares lie close together.",
        "The original is shaded by the neurons that fire in it by themselves, though nothing is edited there; its "
        "figures stay n/a.",
    ),
    "vector alpha": Term(
        "Alpha of vector", "How many times the difference in means is added; 1 is the difference itself."
    ),
    "reach": Term(
        "Within reach",
        "Clamp, swap and weight act only on tokens where a neuron of more than this score is within reach; empty: all.",
        "Within reach: among the 2k largest positive pre-activations, where k neurons are active on the token.",
    ),
    "several layers": Term(
        "Several layers",
        "Every column acts at these setups' layers of the same model too, by the scores of their own SAEs.",
        "Contamination and neurons changed are those of the chosen setup's layer.",
    ),
    "positions": Term(
        "Positions",
        "Which tokens are edited; by default all for SAE, Add and Vector, and all but special ones for the others.",
        "user and assistant: what they say in a chat; what is generated there is the assistant's.",
    ),
    "zero strength": Term(
        "At zero strength",
        "The same column once more without any strength: it must write what the original does, or the SAE alone.",
        "Every score 1, no neuron clamped, every alpha 0. Without the SAE's error kept, swap, weight and clamp must "
        "write what the SAE's reconstruction alone writes at the same positions.",
    ),
    "seed": Term("Seed", "The same seed gives the same text, and is the same for every column."),
    "tokens": Term("New tokens", "How many tokens each column writes at most."),
    "sampling": Term(
        "Sampling", "Each token is drawn from the 5 likeliest, as in the paper, or is always the likeliest."
    ),
}
