"""One shard: its scenes -> its encoded cells. Start reading at `embed.py`."""
