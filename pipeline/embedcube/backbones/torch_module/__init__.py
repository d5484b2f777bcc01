"""The backbone `torch`: a module of the user, as an exported program, or as a state dict with a factory."""
