"""How many shards one object of the cube holds."""

from dataclasses import dataclass

from embedcube.grid import ShardRange


@dataclass(frozen=True, kw_only=True)
class ObjectShape:
    """How many shards one object of the cube holds; where a chunk holds several windows, these are one shard here."""

    windows: int
    """shards along time"""
    rows: int
    cols: int

    def from_border(self, place: ShardRange) -> ShardRange:
        """A rectangle of shards, made larger so that it begins at the border of an object, counted from the origin."""
        above, left = place.row % self.rows, place.col % self.cols
        return ShardRange(row=place.row - above, col=place.col - left, rows=place.rows + above, cols=place.cols + left)
