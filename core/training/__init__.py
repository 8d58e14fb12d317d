"""Training of sparse autoencoders, and of the classifier of acceptable English."""
