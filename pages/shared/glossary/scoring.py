"""Terms of the scores, and of what is known of a neuron."""

from core.scoring.chance import LEVEL
from core.scoring.nonsense import MIXED, N_TOPICS
from core.scoring.scores import DENSE
from pages.shared.glossary.term import Term

SCORING = {
    "score": Term(
        "Score",
        "1 for the neuron whose prompts lie closest to the topic, 0 for the farthest.",
        "(max g - g) / (max g - min g), over the scored neurons: Eq. 2 of the Topic Alignment paper with its sign "
        "turned, since as printed the farthest neuron has 1, against the paper's own text and figures.",
    ),
    "g": Term(
        "g",
        "Mean distance of the neuron's prompts from the topic, weighted by how active it is on each.",
        "Eq. 1. Unlike the score it can be compared between SAEs and topics. Unit: distance, 0 to 2; squared settings "
        "square it.",
    ),
    "prompts": Term("Prompts", "Number of reference prompts on which the neuron is active."),
    "too rare": Term(
        "Too rare",
        "A neuron active in too few reference prompts has no score.",
        "The least number is a setting, 20 by default. In steering such a neuron counts as score 0.",
    ),
    "case": Term(
        "Case",
        "Aligned: the neuron's prompts lie closer to the topic than chance gives; unaligned: farther; polysemantic: it "
        "is strong on near and on far prompts; else not told apart.",
        f"The cases are the paper's, the rule is ours. Chance is what {N_TOPICS} topics show that mean nothing: lines "
        f"of random words and, from {MIXED} prompts on, reference prompts drawn at random. At most {LEVEL:.0%} of such "
        "topics show any neuron of a case (false discovery rate over neurons by Benjamini and Hochberg). To deal the "
        "topic's distances to the prompts at random (the z of the CSV) is not enough: prompts come in clusters, and "
        "hundreds of neurons pass that test for any words at all.",
    ),
    "standing": Term(
        "Second-best and median score",
        "The best neuron has score 1 for every topic, so these say how far it stands before the next and before most.",
    ),
    "dense": Term(
        "Dense neuron",
        f"One that is active on more than {DENSE:.0%} of the reference tokens.",
        "Its g lies near the mean for every topic, and for some a little below, which can make the topic look carried. "
        "The setting Largest density leaves such neurons without a score.",
    ),
    "max density": Term(
        "Largest density",
        "A neuron active on a larger share of the reference tokens has no score; empty: the paper's, none is left out.",
        "Ours. In steering such a neuron counts as score 0.",
    ),
    "top tokens": Term("Top tokens", "The tokens that carry most of the neuron's activation on the reference prompts."),
    "histogram": Term(
        "Activations", "How often the neuron fires how strongly: tokens by activation, from 0 to its largest."
    ),
    "summary": Term(
        "Summary",
        "How a neuron's activation on a prompt becomes one number.",
        "sum: over tokens, divided by the prompt's total over all neurons (the paper's). max: over tokens. mean: per "
        "token. count: share of tokens on which it is active.",
    ),
    "distance": Term(
        "Distance",
        "Between sentence embeddings of unit length: 0 is the same meaning, 1.41 unrelated, 2 opposite.",
        "Squared Euclidean distance is twice the cosine distance, so it gives cosine's scores.",
    ),
    "variant": Term(
        "Variant",
        "What g is the weighted mean of: the distance, or its square.",
        "The square is the weighted variance that the paper's text names.",
    ),
    "min prompts": Term("Least prompts", "A neuron active in fewer reference prompts than this has no score."),
    "contexts": Term(
        "Contexts",
        "The reference prompts with the neuron's highest activations; each token is shaded by its activation.",
    ),
    "promotes": Term(
        "Promotes and suppresses",
        "The tokens whose probability the neuron's decoder row raises and lowers most.",
        "Through the unembedding alone (logit lens): later blocks may do something else.",
    ),
    "groups": Term(
        "Groups",
        "Share of the neuron's activation by group of reference prompts, beside that of all neurons together.",
    ),
    "nearest": Term("Nearest and farthest", "The reference prompts closest to the topic, and farthest from it."),
}
