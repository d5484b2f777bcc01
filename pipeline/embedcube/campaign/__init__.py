"""One campaign: its YAML, every path of its run folder, and the schema of every file in it."""
