"""Measurements: `python -m benchmarks.embed`. Ratios in one run, beside a peer and the physical bound."""
