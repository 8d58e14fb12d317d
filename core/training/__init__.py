"""Training of the embedded language models and of sparse autoencoders."""
