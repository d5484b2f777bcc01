"""Chips -> vectors. `base.py` holds the contract; each encoder is a module or a folder."""
