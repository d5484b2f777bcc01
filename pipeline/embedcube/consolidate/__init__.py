"""Making one cube of the parts, and its verification."""
