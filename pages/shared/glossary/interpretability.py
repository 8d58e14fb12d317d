"""Terms of the Interpretability page."""

from core.interpretability.rubric import RUBRIC
from pages.shared.glossary.term import Term

INTERPRETABILITY = {
    "interpretability": Term(
        "Interpretability score",
        "How well its five top contexts tell what a neuron responds to: 1 not at all, 5 without exception.",
        "The rubric is the FAST paper's (section 5): "
        + "; ".join(f"{score}: {meaning[0].lower()}{meaning[1:]}" for score, meaning in RUBRIC.items())
        + ". Its prompt is lost in the text we have; the question is ours.",
    ),
    "rated neurons": Term(
        "Rated neurons",
        "Neurons drawn at random among those that fire on at least five texts; 128 in the paper.",
        "A draw follows from its seed, and a larger one begins with the smaller ones: a person and a judge rate the "
        "same neurons.",
    ),
    "share 4-5": Term(
        "Share of 4 and 5",
        "Share of the rated neurons with score 4 or 5, with its 95% bootstrap interval over neurons.",
        "The paper's measure of an SAE. It depends on who rates: compare SAEs by one rater.",
    ),
    "rater": Term(
        "Rater",
        "Who rates: a language model at an endpoint of your own (a judge), or a person.",
        "Both see the same texts, cut to some 60 tokens around the strongest one.",
    ),
    "blind": Term(
        "Blind",
        "The form does not say which neuron or SAE it shows, what it is called, or how others rate it.",
    ),
    "kappa": Term(
        "Cohen's kappa",
        "How far two raters agree beyond chance: 1 wholly, 0 as by chance, below 0 less than that.",
        "Over the neurons that both rated, with its 95% bootstrap interval.",
    ),
    "kappa weighted": Term(
        "Weighted kappa",
        "Kappa in which a disagreement counts by its squared distance: 4 against 5 little, 1 against 5 much.",
        "For five ordered steps it is the one to read.",
    ),
}
