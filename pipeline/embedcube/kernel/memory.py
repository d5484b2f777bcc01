"""How many shards a rank holds in memory at once."""

SAMPLES_IN_FLIGHT = 3
"""read, waiting and embedded at once"""
