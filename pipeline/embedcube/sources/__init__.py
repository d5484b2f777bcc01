"""Where inputs come from: one module per kind of archive."""
