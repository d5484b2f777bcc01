"""embed: the parents of a task, their ranks, the queue of shards, and crashes. Start reading at `protocol.py`."""
