"""Terms of the Layer output page, and of what a neuron writes on the Topic page."""

from pages.shared.glossary.term import Term

OUTPUT = {
    "output score": Term(
        "Output score",
        "What the ten tokens that the neuron promotes gain in probability of coming next when the neuron is added.",
        "Its decoder row, times its mean activation, is added to the residual stream at the last position of 8 neutral "
        "openings; the gain is summed over the ten tokens and averaged over the openings, -1 to 1. Ours. A neuron "
        "that fires on a topic need not write about it (Arad et al. 2025, arXiv:2505.20063), so both ranks are shown.",
    ),
    "topic gain": Term(
        "Gain of the topic's words",
        "What the topic's own words gain in probability of coming next when the neuron is added, in percentage points.",
        "Measured as the output score is. The topic's words: at most 20 that tell the topic's tokens from the "
        "reference prompts' (by p log(p / q)), in every spelling that is a single token.",
    ),
    "similar": Term(
        "Similar neurons",
        "The neurons whose decoder rows point the same way, with the cosine of the angle: 1 is the same direction.",
    ),
    "rankings": Term(
        "Ranks",
        "The neuron's rank under every summary and distance; the page's own setting is in bold.",
        "A neuron that stays in front whatever the setting is a safer find than one that does not.",
    ),
}

LAYER = {
    "special under edits": Term(
        "Special tokens under the edits",
        "The error of the edited activation on tokens that the chat template adds, beside that on ordinary ones.",
        "Special tokens are role words and markers; the template's line breaks and default system message stand apart. "
        "The Topic Alignment paper left them out of its figures, as their error was very high; its guess is that "
        "scores are computed without them while the SAE was trained on them.",
    ),
    "sets": Term(
        "Aligned and unaligned",
        "Aligned: the topic's own 20 prompts. Unaligned: 40 bundled prompts about none of the topics.",
        "Special tokens are left out, as in the paper.",
    ),
    "layer mean": Term(
        "Means over prompts",
        "Mean over prompts, each by the mean of its tokens, with a 95% bootstrap interval over prompts.",
        "Tokens of one prompt are not independent, so prompts are what is counted. Of all topics: over topics.",
    ),
    "sae_error": Term(
        "Error of the SAE",
        "Mean squared error of the SAE's own reconstruction: what a reconstruction delta is to be seen against.",
    ),
    "correlation": Term(
        "Correlation",
        "Spearman's correlation of contamination and reconstruction delta over tokens; 1: they rise together.",
    ),
    "extremes": Term("Extremes", "The tokens of the lowest and of the highest reconstruction delta."),
    "contrast": Term(
        "Difference",
        "Mean over topics of the difference within each, with a 95% bootstrap interval over topics.",
        "An interval that leaves 0 out is more than chance.",
    ),
}

BETWEEN_TOPICS = {
    "intra": Term(
        "Within the topic",
        "Mean distance of the topic's prompts from each other; the paper's intra-topic distance.",
        "The printed Table 5 of the paper has its two columns exchanged: its text says that intra is below inter.",
    ),
    "inter": Term(
        "From other topics",
        "Mean distance of the topic's prompts from those of the other topics; inter-topic distance.",
    ),
    "inter_closer": Term(
        "Closer than its farthest",
        "Share of pairs across topics that are closer than the topic's farthest pair of its own.",
    ),
    "nearest_own": Term(
        "Nearest is its own", "Share of the topic's prompts whose nearest other prompt is of the same topic."
    ),
}
