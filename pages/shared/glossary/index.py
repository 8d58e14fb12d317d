"""All terms of the app: for each, one sentence for help texts, and the rest for the glossary page."""

from html import escape

from pages.shared.glossary.amplifying import AMPLIFYING
from pages.shared.glossary.interpretability import INTERPRETABILITY
from pages.shared.glossary.layer import BETWEEN_TOPICS, LAYER, OUTPUT
from pages.shared.glossary.own_text import OWN_TEXT
from pages.shared.glossary.scoring import SCORING
from pages.shared.glossary.setting_up import SETTING_UP
from pages.shared.glossary.steering import STEERING
from pages.shared.glossary.term import Term
from pages.shared.glossary.text import TEXT
from pages.shared.glossary.training import TRAINING

FIGURES = {
    "text distance": Term(
        "Distance of the text",
        "Distance of the continuation from the topic, 0 to 2; lower is closer.",
    ),
    "topic_percentile": Term(
        "Topic percentile",
        "Share of reference prompts that are closer to the topic than the continuation: 0 is as close as the closest.",
    ),
    "perplexity": Term(
        "Perplexity",
        "How surprising the continuation is to the unsteered model; lower is more fluent to it.",
        "exp of the mean negative log-likelihood of the continuation's tokens. Repetitive text has a low one too.",
    ),
    "contamination": Term(
        "Contamination",
        "Activation after the edit on neurons far from the topic, mean over tokens: sum of a' (1 - score).",
        "Not defined for the original. Its size depends on the SAE's scale, and its scale is the topic's own, whose "
        "closest neuron has score 1 whatever its distance: it compares edits of one topic, not topics.",
    ),
    "contamination_share": Term(
        "Contamination share",
        "Contamination as a share of all activation on the token, 0 to 1.",
        "It ranks clamp lowest by construction: clamp puts huge values on neurons of score near 1.",
    ),
    "neurons_changed": Term(
        "Neurons changed", "Number of neurons whose activation on a token the edit changed, mean over tokens."
    ),
    "reconstruction_delta": Term(
        "Reconstruction delta",
        "Squared error of the edited activation less that of the SAE; below 0 is closer to the original than the SAE.",
    ),
    "distinct_2": Term("Distinct-2", "Different pairs of tokens over all pairs; lower is more repetitive."),
    "repetition": Term("Repetition", "Share of tokens that already stood among the 16 before them."),
}

TOP_K = {
    "top-k": Term(
        "Top-k share",
        "Share of a text's tokens on which at least one of the k best-scored neurons fires.",
        "Fig. 4 of the Topic Alignment paper. Scores know the topic's prompts only by their sentence embeddings, so "
        "that the tokens of these prompts can test the scores. Special tokens are left out.",
    ),
    "unaligned": Term(
        "Unaligned text",
        "40 prompts about none of the bundled topics (`data/unaligned.txt`), the same for every topic.",
    ),
    "area": Term(
        "Area between the curves",
        "Mean difference between the topic's share and that of unaligned text, over k on a logarithmic axis, -1 to 1.",
        "From k = 1 to the number of scored neurons, so that small k count as much as they show. The linear area gives "
        "every k the same weight, and most of it lies where both shares are near 1.",
    ),
    "chance": Term(
        "Chance",
        "95th percentile of the areas of 200 random rankings of the same neurons: 5% of them reach further.",
        "Such a ranking knows nothing of the topic. A neuron that fires often, and more in one of the two texts, makes "
        "the area large where it happens to stand in front.",
    ),
    "top-k neurons": Term(
        "Top-k neurons",
        "Share of the k best neurons that fire on at least one token of a text.",
        "A longer text fires more neurons: compare the two only with their numbers of tokens in mind.",
    ),
    "top-k tokens": Term(
        "Tokens of the top k",
        "The tokens on which at least one of the k best neurons fires, the most frequent first.",
        "7 means all 7 places where the token stands; 7/33 means 7 of its 33 places.",
    ),
}

DISTRIBUTIONS = {
    "violin": Term(
        "Violin",
        "Distribution of all scored neurons; its tick is the median.",
        "The best neuron has score 1 and the farthest 0 in every violin: only g compares between setups and topics.",
    ),
    "format": Term(
        "Prompts of the topic",
        "The first 6 prompts of a topic, or all of them; below, 6 drawn at random five times.",
        "More prompts bring every reference prompt nearer to the closest of them, so g can only fall.",
    ),
    "kendall": Term(
        "Kendall's tau",
        "How alike two rankings order the neurons: 1 the same order, 0 unrelated, -1 reversed.",
        "Tau-b, over the scored neurons; pairs that tie in one ranking agree and disagree with nothing.",
    ),
    "powers": Term(
        "Powers of the distance",
        "What g is the mean of: the distance, its square, or the square of that.",
        "The square is also what cosine distance and the variance give; with the variance it is squared twice.",
    ),
    "strawman": Term(
        "Strawman",
        "Share of the topic's own tokens on which the neuron fires, without any score.",
        "What the Topic Alignment paper argues against: a few prompts do not tell what else a neuron fires on.",
    ),
}

COVERAGE = {
    "coverage": Term(
        "Coverage",
        "Share of the SAE's neurons that fire in at least 1, or in more than 20, of a set of reference prompts.",
        "Samples are drawn with replacement, as in the Topic Alignment paper; a prompt drawn twice counts once. A "
        "score takes 20 prompts; the paper's Fig. 3 counts more than 20.",
    ),
    "tokens per neuron": Term(
        "Tokens per neuron",
        "On how many tokens, or in how many prompts, of the reference set a neuron is active.",
        "From 8 on, each bar is about 1.4 times as wide as the one before. Special tokens are left out.",
    ),
    "dead neurons": Term(
        "Dead on the reference prompts",
        "A neuron that fires on no reference prompt: nothing is known of it, and it has no score.",
        "It may still fire on other text.",
    ),
    "design": Term(
        "Design of a reference set",
        "How its prompts are chosen: at random, evenly over tasks, spread out, or by contrast between topics.",
        "Random and per task: 5 samples each, without replacement. Farthest points: each prompt is the farthest, in "
        "the sentence embedding, from those before it. Contrastive: near one of the bundled topics and, on average, "
        "far from the others, the topics in turns; for an unseen topic, by the other topics alone. Disjoint: two "
        "random sets without a common prompt, compared with each other.",
    ),
    "agreement": Term(
        "Agreement with the whole set",
        "How alike a smaller set and the whole reference set rank the neurons of a topic.",
        "Kendall's tau-b over the neurons that both score; how many of the 20 best are the same; and the share of the "
        "scored neurons that the smaller set scores too, with the same least number of prompts (20).",
    ),
    "suggested size": Term(
        "Suggested size",
        "The smallest set whose ranking agrees with the whole set's, as every larger set tried does.",
        "Two rules, ours. The whole set's ranking: tau of at least 0.9, mean over the topics. What is reproducible of "
        "it: tau of at least that between the two largest disjoint sets, since other prompts would have changed the "
        "ranking as much. Both ask that 90% of the neurons that the whole set scores are scored. Sizes tried are "
        "powers of 2.",
    ),
    "coactivation sets": Term(
        "Coactivation sets",
        "Best neurons of a topic that fire in the same prompts, joined while their mean Jaccard index is at least .15.",
        "Average linkage; a neuron that fires with no other stands in no set. Steering adds all of a set at once.",
    ),
    "coactivation": Term(
        "Coactivation",
        "Jaccard index of two neurons: the prompts on which both fire, over those on which at least one does.",
        "1: always together; 0: never. A topic's best neurons may well fire on different prompts about it.",
    ),
}

SECTIONS = {
    "Setups and prompts": SETTING_UP,
    "Scores": SCORING,
    "What a neuron writes": OUTPUT,
    "Top-k tokens": TOP_K,
    "Distributions": DISTRIBUTIONS,
    "Coverage and reference sets": COVERAGE,
    "Distances between topics": BETWEEN_TOPICS,
    "Your own text": OWN_TEXT,
    "Steering": STEERING,
    "Layer output": LAYER,
    "Amplifying a neuron": AMPLIFYING,
    "Figures of a text": FIGURES,
    "Results and texts compared": TEXT,
    "Training of SAEs": TRAINING,
    "Interpretability": INTERPRETABILITY,
}
TERMS = {key: term for section in SECTIONS.values() for key, term in section.items()}


def term_link(key: str, label: str) -> str:
    """A label (HTML) that explains the term on hover and links to it in the glossary."""
    term = TERMS[key]
    link = f'href="glossary#{term.anchor}" target="_blank" title="{escape(term.short)}"'
    return f'<a class="ss-term" {link}>{escape(label)}</a>'


def help_text(key: str) -> str:
    """The sentence that explains a term, with a link to the glossary (Markdown, for `help=`)."""
    term = TERMS[key]
    return f"{term.short} [Glossary](glossary#{term.anchor})"
