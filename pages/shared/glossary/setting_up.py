"""Terms of setups and prompts, and what a neuron is called."""

from pages.shared.glossary.term import Term

SETTING_UP = {
    "setup": Term(
        "Setup",
        "A language model, a hook point in it, an SAE trained there, and the reference prompts.",
        "Everything on a page is computed for one setup. Your own go into a file `setups.toml`: by the page Add a "
        "setup, by `python -m core add-setup`, or by hand; the README shows one.",
    ),
    "release": Term(
        "Release",
        "A set of published SAEs under one name, as sae_lens lists them; each is `release:id`.",
        "The list comes with sae_lens and tells the model, and the number of neurons and hook point where a name has "
        "them; the SAE's own file has the last word. Transcoders are left out: they write elsewhere than they read.",
    ),
    "prompts as": Term(
        "How reference prompts are read",
        "As plain text, or as a user's message in the model's chat template.",
        "`chat` in the file of setups puts them through the template; `instruct` says that the model answers in it, "
        "which Special tokens and sweeps need, while reference prompts stay plain text.",
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
