"""Terms of the Special tokens page."""

from pages.shared.glossary.term import Term

AMPLIFYING = {
    "alpha": Term(
        "Alpha",
        "How many times a neuron's decoder row is added to the residual stream, at every token of prompt and answer.",
        "x + alpha × the neuron's decoder row (Eq. 8 of the FAST paper). The slider goes to twice the mean "
        "norm of the residual stream on the questions' own tokens. An alpha of one SAE says nothing in another.",
    ),
    "any alpha": Term(
        "Any alpha",
        "Off: the slider stops at the alphas that were swept, whose answers are saved. On: the model answers.",
    ),
    "alphas": Term(
        "Grid of alphas",
        "Start, end and step as in 0:150:25 (both ends included), a list as in 25,50,75, or auto.",
        "auto: nine values from 0 to twice the mean norm of the residual stream. 0, the unsteered answer, is always "
        "among them. All alphas of a question are answered in one batch.",
    ),
    "shift": Term(
        "Shift", "Length of what is added, as a share of the residual stream's mean norm on the questions' own tokens."
    ),
    "mean max": Term(
        "Strongest neurons of a token",
        "A neuron's largest activation on the template's token in a dialogue, averaged over dialogues.",
        "FAST paper, F.3, over 1,000 of the bundled dialogues. Tokens are told by their place in the template, role "
        "words such as user included: a 'user' that somebody writes does not count.",
    ),
    "compared": Term(
        "Other neurons", "Neurons to sweep beside the open one, separated by commas; their curves are drawn together."
    ),
    "control neuron": Term(
        "Random control",
        "A neuron drawn at random among those that fire on the reference prompts, swept like the open one.",
        "What amplifying any neuron does: an effect of the open neuron is one that its control does not show.",
    ),
    "confidence": Term(
        "Confidence",
        "Probability that the steered model gives the tokens it writes, geometric mean over the answer, 0 to 1.",
        "Each is its likeliest token. It is 1 over the answer's perplexity under the steered model.",
    ),
    "language_switch": Term(
        "Language switch",
        "Share of the answer's letters in a script that neither the question nor the unsteered answer uses.",
        "A change between languages of one script, such as English and French, is not seen.",
    ),
    "n_tokens": Term("Length", "Number of tokens of the answer; it ends at the end-of-turn token or at the limit."),
    "acceptability": Term(
        "Acceptability",
        "Whether a classifier of well-formed English (CoLA) accepts the answer, 1 or 0; not available without one.",
    ),
    "judge": Term(
        "Judge's score",
        "How a language model rates the answers, 0 to 2; not available without one (`sweep --judge`).",
        "Harmonic mean of two ratings, each 0, 1 or 2: whether it answers the question rightly, and whether it is "
        "readable. The words are ours, the scale is AxBench's.",
    ),
    "improved": Term(
        "Improvement",
        "The figure by which an answer counts as better than the unsteered one.",
        "A mark of diversity or fluency is no mark of sense. The rules of the windows stand below the curves.",
    ),
    "collapsed": Term(
        "Collapsed",
        "An answer from which no sense can be expected: overflow, nothing left, or far too surprising or repetitive.",
    ),
}
