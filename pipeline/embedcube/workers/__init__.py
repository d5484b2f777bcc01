"""embed: the parents of a task, their ranks, the queue of shards, and what happens when one crashes."""
