"""Archives -> scenes -> pixels on the grid. `base.py` holds the contract."""
