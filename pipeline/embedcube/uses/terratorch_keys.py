"""Keys of a configuration of TerraTorch: which are translated, which are not needed, and the kinds of their values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from embedcube.errors import RequestError
from embedcube.printable import printable

SPLITS = ("predict_", "test_", "val_", "train_", "")
"""beginnings of the keys of files and transforms, in the order in which they are looked for"""

NOT_NEEDED = {
    "has_cls": "the layout of a model's tokens is known",
    "output_format": "a cube is written; `embedcube export` makes other files of it",
    "output_dir": "the run folder holds everything",
    "embed_file_key": "ids come from the names of files, or from the stores",
    "num_workers": "see `how`", "batch_size": "see `batch`", "check_stackability": "every scene is checked",
}  # fmt: skip
"""keys that have no counterpart, and why"""

OF_MODEL = {"backbone", "bands", "pretrained", "use_temporal", "temporal_pooling", "temporal_n_timestamps", "ckpt_path"}

OF_TASK = {"model", "model_args", "layers", "embedding_pooling", "temporal_cfg", "use_tiled", "tile_cfg"}

OF_DATA = {"data_with_sample_dim", "image_modalities", "modalities", "means", "stds", "img_grep", "image_grep"} | {
    "constant_scale", "no_data_replace", "output_bands", "dataset_bands", "predict_output_bands",
    "predict_dataset_bands", "bands", *(f"{split}{what}" for split in SPLITS for what in ("data_root", "transform")),
}  # fmt: skip
"""keys that are translated"""


class Arguments(BaseModel):
    """Arguments of TerraTorch, checked as far as they are translated; others may be anything."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


Numbers = list[float] | dict[str, list[float]] | None
Texts = str | dict[str, str | None] | None
Bands = list[Any] | dict[str, list[Any] | None] | None


class Tiles(Arguments):
    """How large images are cut into tiles."""

    crop: PositiveInt | None = None
    stride: PositiveInt | None = None


class Task(Arguments):
    """Arguments of the task."""

    model: str | None = None
    model_args: dict[str, Any] | None = None
    layers: list[int] | None = None
    embedding_pooling: str | None = None
    temporal_cfg: dict[str, Any] | None = None
    use_tiled: bool | None = None
    tile_cfg: Tiles | None = None


class Model(Arguments):
    """Arguments of the model, without `backbone_`."""

    merge_method: str | None = None
    bands: Bands = None
    temporal_pooling: str | None = None
    temporal_n_timestamps: int | None = None


class Values(Arguments):
    """Arguments of the data that say what pixels are."""

    means: Numbers = None
    stds: Numbers = None
    constant_scale: PositiveFloat | dict[str, PositiveFloat] | None = None
    bands: Bands = None
    dataset_bands: Bands = None
    output_bands: Bands = None
    predict_dataset_bands: Bands = None
    predict_output_bands: Bands = None


class Files(Arguments):
    """Arguments of the data that say where files are."""

    img_grep: Texts = None
    image_grep: Texts = None
    predict_data_root: Texts = None
    test_data_root: Texts = None
    val_data_root: Texts = None
    train_data_root: Texts = None
    data_root: Texts = None
    predict_transform: list[Any] | None = None
    test_transform: list[Any] | None = None
    val_transform: list[Any] | None = None
    train_transform: list[Any] | None = None
    transform: list[Any] | None = None


def refuse_other_kinds(path: Path, block: str, kind: type[Arguments], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a block whose values are not of the kinds that are translated, with a RequestError."""
    try:
        kind.model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (block, *first["loc"])))
        given = printable(first["input"], 60)
        raise RequestError(f"{path}: {printable(place, 100)}: {first['msg']}, not {given}") from None
