"""What a rank holds in memory beside blocks of files: `plan` prices it, the pipeline keeps to it."""

SAMPLES_IN_FLIGHT = 3
"""samples in memory: one is read, one waits, one is embedded"""

PROCESS_BYTES = 700 << 20
"""memory of a rank with its libraries loaded and warm, before it holds any data (550 to 590 MB were measured)"""
