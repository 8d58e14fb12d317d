"""Terms of the page My text."""

from pages.shared.glossary.term import Term

OWN_TEXT = {
    "text neurons": Term(
        "Neurons of a text",
        "Every neuron that fires on an ordinary token of the text, largest sum of activations first.",
        "Special tokens (beginning of text, chat template) are shown and have neurons, but count in no sum. The topic "
        "rank is the neuron's rank among all scored neurons, as on the page Topic.",
    ),
    "text shading": Term(
        "Shading of a text",
        "One neuron's activation on each token, the topic score of the token's neurons, or their contamination.",
        "The full colour is the text's largest value. Special tokens are not shaded.",
    ),
    "token score": Term(
        "Topic score of a token",
        "Mean score of the token's active neurons, weighted by their activations, 0 to 1.",
        "1 less the token's contamination share. Tokens lie close together: the shading begins at the text's lowest.",
    ),
}
