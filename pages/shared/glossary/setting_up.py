"""Terms of setups and prompts, and what a neuron is called."""

from pages.shared.glossary.term import Term

SETTING_UP = {
    "setup": Term(
        "Setup",
        "A language model, a hook point in it, an SAE trained there, and the reference prompts.",
        "Everything on a page is computed for one setup. Your own go into a file `setups.toml`; the README shows one.",
    ),
    "neuron": Term("Neuron", "One latent of the SAE, by its number.", "The papers' word; elsewhere called a feature."),
    "name": Term(
        "Name of a neuron",
        "Your own label, else a judge's, else the tokens that the neuron fires on most.",
        "Labels are written beside the open neuron on the page Topic, or imported as a table on Compare and export.",
    ),
    "reference": Term(
        "Reference prompt",
        "One of the prompts about many subjects on which every neuron's activation was stored.",
        "Special tokens (beginning of text, chat template) are left out of every sum.",
    ),
    "topic": Term(
        "Topic",
        "One or more prompts that say what you mean; each line is one prompt.",
        "A prompt's distance from the topic is its distance from the nearest of these.",
    ),
}
