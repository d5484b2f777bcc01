"""Parts -> one cube, and its verification."""
