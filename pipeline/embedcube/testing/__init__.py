"""For plugin authors: checks of a source's and a backbone's contract, and a small synthetic archive."""

from embedcube.testing.contracts import check_backbone, check_source

__all__ = ["check_backbone", "check_source"]
