"""Steerscope: find the sparse-autoencoder neurons that carry a topic, and steer a language model with them."""
