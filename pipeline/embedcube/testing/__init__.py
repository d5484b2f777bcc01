"""Contract checks for authors of plugins (`check_source`, `check_backbone`), and a small synthetic archive."""

from embedcube.testing.contracts import check_backbone, check_source

__all__ = ["check_backbone", "check_source"]
