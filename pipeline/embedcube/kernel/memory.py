"""How many shards a rank holds in memory at once: `plan` prices it, the pipeline keeps to it."""

SAMPLES_IN_FLIGHT = 3
"""samples in memory: one is read, one waits, one is embedded"""
