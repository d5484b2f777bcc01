"""A torch module of the user: an exported program, or a state dict with a factory."""
