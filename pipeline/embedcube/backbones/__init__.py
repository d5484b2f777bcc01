"""What turns chips into vectors: one module per encoder."""
