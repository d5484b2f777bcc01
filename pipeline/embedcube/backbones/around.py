"""What a backbone around another one has from it: its model, its sample, its published weights."""

from embedcube.backbones.contract import Backbone, ModelCard, Weights, leaves_masked_out
from embedcube.grid import ShardLayout


class Around:
    """The part of a backbone around another one that is the same for both."""

    def __init__(self, backbone: Backbone, layout: ShardLayout) -> None:
        """`backbone` is the inner one, made for chips of `layout`."""
        self._backbone, self._layout = backbone, layout
        self.software = backbone.software
        self.masks = leaves_masked_out(backbone)

    @staticmethod
    def cards() -> tuple[ModelCard, ...]:
        """None: it is no model of its own."""
        return ()

    @property
    def model(self) -> str:
        """URI of the inner backbone's model."""
        return self._backbone.model

    @property
    def fit_chips(self) -> int | None:
        """Number of chips that the inner backbone is fitted on; 0 where nothing is fitted, None for all chips."""
        return self._backbone.fit_chips

    def load(self, checkpoint: bytes) -> Weights:
        """The inner backbone's weights from the bytes of its published checkpoint.

        Raises:
            ValueError: the bytes are not a checkpoint of the inner backbone.
        """
        return self._backbone.load(checkpoint)
