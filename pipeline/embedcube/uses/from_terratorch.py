"""A campaign from a configuration of TerraTorch's EmbeddingGenerationTask; TerraTorch itself is not needed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

from embedcube.backbones.normalisation import MODALITIES, spelled
from embedcube.campaign.fields import nearest, read_yaml
from embedcube.errors import RequestError
from embedcube.printable import printable
from embedcube.uses.terratorch_keys import (
    NOT_NEEDED,
    OF_DATA,
    OF_MODEL,
    OF_TASK,
    SPLITS,
    Files,
    Model,
    Task,
    Values,
    refuse_other_kinds,
)

_POOLING = {None: "none", "keep": "none", "None": "none", "none": "none"} | {
    f"{before}{name}": name for before in ("", "vit_", "cnn_") for name in ("mean", "max", "min", "cls")
}
"""TerraTorch's names of poolings, new and old -> embedcube's"""

_OVER_TIME = ("mean", "max", "min", "concat", "diff")

_MODALITY = {
    "S2L2A": "S2L2A", "S2L1C": "S2L1C", "S1GRD": "S1GRD", "S1RTC": "S1RTC", "DEM": "DEM", "S2": "S2L2A", "S1": "S1GRD",
}  # fmt: skip

_SEASONS = {"start": "2020-03-01", "end": "2021-03-01", "step": "3 months"}

_YEAR = [["2020-03-01", "2021-03-01"]]

_ALL_TIME = [["1970-01-01", "2100-01-01"]]

_OTHER_BANDS = {
    "NIR": "B08", "RED_EDGE": "B05", "COASTAL": "B01", "NIR08": "B8A", "NIR09": "B09", "SWIR16": "B11", "SWIR22": "B12",
    "REDEDGE1": "B05", "REDEDGE2": "B06", "REDEDGE3": "B07",
}  # fmt: skip
"""further names of bands: those of STAC"""

_REFLECTANCE = 10_000
"""DN of a reflectance of 1"""


@dataclass(kw_only=True)
class Translated:
    """A campaign, and what could not be put into it."""

    campaign: dict[str, Any]
    remarks: list[str] = field(default_factory=list)
    """one line for each key that is not translated as it stands, or that must be looked at"""


def translate(path: Path) -> Translated:
    """The campaign of a configuration file.

    Raises:
        RequestError: it is not a configuration of TerraTorch's EmbeddingGenerationTask.
    """
    try:
        document = read_yaml(path)
    except (OSError, RequestError) as error:
        raise RequestError(f"cannot be read: {printable(error, 300)}") from None
    task, data = _block(document, "model", path), _block(document, "data", path)
    if "EmbeddingGeneration" not in str(task.get("class_path", "")):
        raise RequestError(
            f"{path}: model.class_path is {printable(task.get('class_path'))}; a campaign can be made of "
            "terratorch.tasks.EmbeddingGenerationTask only"
        )
    return _Translation(_arguments(task), _arguments(data), path).translated()


def _block(document: Any, key: str, path: Path) -> dict[str, Any]:
    block = document.get(key) if isinstance(document, dict) else None
    if not isinstance(block, dict):
        raise RequestError(f"{path}: it has no block `{key}`, so it is no configuration of TerraTorch")
    return block


def _arguments(block: Mapping[str, Any]) -> dict[str, Any]:
    arguments = block.get("init_args")
    return dict(arguments) if isinstance(arguments, dict) else {}


class _Translation:
    """One configuration, while it is translated."""

    def __init__(self, task: dict[str, Any], data: dict[str, Any], path: Path) -> None:
        from embedcube.backbones.terratorch.models import KNOWN, TERRATORCH_BAND

        refuse_other_kinds(path, "model.init_args", Task, task)
        refuse_other_kinds(path, "data.init_args", Values, data)
        refuse_other_kinds(path, "data.init_args", Files, data)
        self._task, self._data, self._name = task, data, path.stem
        self._known = KNOWN.get
        self._ours = {theirs: ours for ours, theirs in TERRATORCH_BAND.items()} | _OTHER_BANDS
        # the old form names the model beside its arguments, the new one among them, all with the same beginning
        self._model = {key.removeprefix("backbone_"): value for key, value in (task.get("model_args") or {}).items()}
        refuse_other_kinds(path, "model.init_args.model_args", Model, self._model)
        self._model_name = str(task.get("model") or self._model.get("backbone", ""))
        if not self._model_name:
            raise RequestError(f"{path}: neither model nor model_args.backbone names a model")
        self._remarks: list[str] = []

    def translated(self) -> Translated:
        """The campaign and the remarks."""
        modalities = self._modalities()
        archives = {self._archive_name(one): self._archive(one) for one in modalities}
        layers = self._layers(modalities, archives)
        over_time = any("over_time" in layer for layer in layers.values())
        windows: Any = _YEAR if over_time else _SEASONS if self._stores else _ALL_TIME
        if not self._stores and not over_time:
            dated = "`time` or {date} instead of `static`" if self._tiled else "{date} in options.names"
            self._remarks.append(f"windows: one for all time; set those of your dates, and {dated}")
        campaign = {
            "campaign": "".join(c if c.isalnum() else "-" for c in self._name.lower()).strip("-") or "terratorch",
            "archives": archives, "grid": {"crs": "utm" if self._tiled else "samples", "pixel": 10}, "windows": windows,
            "layers": layers,
        }  # fmt: skip
        if self._tiled:
            self._remarks.append("grid.pixel: 10 m; write the size of your images' pixels, so that they are copied")
        else:
            self._remarks.append("grid.pixel: 10 m; the chips' own pixel size is used for their places")
        self._remarks += self._left_over()
        # whatever a value holds, each remark is one line of a comment
        return Translated(campaign=campaign, remarks=[printable(one, 500) for one in self._remarks])

    @property
    def _stores(self) -> bool:
        """Whether the data are stores of SSL4EO-S12."""
        return bool(self._data.get("data_with_sample_dim"))

    @property
    def _tiled(self) -> bool:
        """Whether the images are larger than a chip, and TerraTorch cuts them into tiles that overlap."""
        return bool(self._task.get("use_tiled")) and not self._stores

    def _modalities(self) -> list[str | None]:
        """Names of the modalities, in the model's order; None for data of one kind without a name."""
        named = self._model.pop("modalities", None) or self._data.get("image_modalities")
        return [str(one) for one in named] if isinstance(named, list) and named else [None]

    def _archive_name(self, modality: str | None) -> str:
        return (modality or "images").lower()

    def _of(self, key: str, modality: str | None) -> Any:
        """The value of a key of the data, for one modality where it is a mapping."""
        value = self._data.get(key)
        if isinstance(value, dict) and modality is None and len(value) == 1:
            return next(iter(value.values()))
        return value.get(modality) if isinstance(value, dict) and modality is not None else value

    def _archive(self, modality: str | None) -> dict[str, Any]:
        name = f"archives.{self._archive_name(modality)}"
        root = next((found for split in SPLITS if (found := self._of(f"{split}data_root", modality))), None)
        if root is None:
            self._remarks.append(f"{name}.path: no data root is named; write one")
        elif modality is not None and root == self._data.get("data_root"):
            self._remarks.append(f"{name}.path: a folder of all modalities; name its own files with options.names")
        archive: dict[str, Any] = {
            "source": "ssl4eo" if self._stores else "fields" if self._tiled else "chips", "path": str(root or "."),
            "bands": self._bands(modality),
        }  # fmt: skip
        archive["options"] = self._options(modality, archive["bands"])
        return archive

    def _options(self, modality: str | None, bands: Sequence[str]) -> dict[str, Any]:
        if self._stores:
            if str(modality).startswith("S2"):
                self._remarks.append(
                    f"archives.{self._archive_name(modality)}.options.offset: 0, as TerraTorch feeds the numbers of "
                    "v1.1 with their +1000; remove it for reflectance"
                )
                return {"seasons_of": 2020, "offset": 0}
            return {"seasons_of": 2020}
        pattern = self._of("image_grep", modality) or self._of("img_grep", modality) or "*.tif"
        options: dict[str, Any] = {"names": "{id}" + str(pattern).replace("**/", "").removeprefix("*")}
        if (unit := self._unit(modality)) != 1:
            self._remarks.append(
                f"archives.{self._archive_name(modality)}.options.scale: means below 2 are of reflectances; they and "
                f"what TerraTorch makes of the pixels are multiplied by {unit:,}"
            )
        if not isclose(scale := unit * self._constant(modality), 1):
            options["scale"] = dict.fromkeys(bands, scale)
        if self._tiled:
            # an image of all bands, and no table says in which order: that of the campaign
            options |= {"static": True, "variables": {band: str(i + 1) for i, band in enumerate(bands)}}
        held = [self._band(str(one)) for one in self._named(("predict_dataset_bands", "dataset_bands"), modality)]
        if held and held != list(bands):
            options["variables"] = {band: str(held.index(band) + 1) for band in bands if band in held}
            for band in bands:
                if band not in held:
                    self._remarks.append(f"band {band}: dataset_bands does not name it; write its number as "
                                         f"archives.{self._archive_name(modality)}.options.variables")  # fmt: skip
        if (nodata := self._of("no_data_replace", modality)) is not None:
            self._remarks.append(f"data.no_data_replace: {nodata}: pixels without data enter the model as the mean")
        return options

    def _constant(self, modality: str | None) -> float:
        """The factor of TerraTorch for its pixels."""
        constant = self._of("constant_scale", modality)
        return 1.0 if constant is None or isinstance(constant, dict) else float(constant)

    def _unit(self, modality: str | None) -> int:
        """The factor for what TerraTorch makes of its pixels: its means, of these, tell reflectances from DN."""
        means = self._of("means", modality)
        known = isinstance(means, list) and means and not str(modality).startswith("S1")
        return _REFLECTANCE if known and max(map(float, means)) < 2 else 1

    def _named(self, keys: Sequence[str], modality: str | None) -> list[Any]:
        """The bands that the first of these keys names; none where they name none."""
        for key in keys:
            named = self._of(key, modality)
            if isinstance(named, list) and named:
                return named
        return []

    def _bands(self, modality: str | None) -> list[str]:
        known = MODALITIES.get(_MODALITY.get(str(modality), ""))
        named = self._named(
            ("predict_output_bands", "output_bands", "predict_dataset_bands", "dataset_bands", "bands"), modality
        ) or self._model.get("bands")
        if isinstance(named, dict):
            named = named.get(str(modality))
        if isinstance(named, list) and named:
            return [self._band(str(one)) for one in named]
        if known is not None:
            return list(known.bands)
        of_model = self._known(self._model_name)
        if of_model is not None and of_model.normalisation is not None:
            return list(of_model.normalisation.bands)
        self._remarks.append("archives.images.bands: no bands are named; B01 stands for all, write them")
        return ["B01"]

    def _band(self, name: str) -> str:
        own = self._ours.get(name.upper().removeprefix("HLSBANDS.").removeprefix("SENSOR."), spelled(name))
        if own not in self._ours.values():
            self._remarks.append(f"band {name}: no band of this name is known{nearest(name, tuple(self._ours))}; kept")
        return own

    def _layers(self, modalities: Sequence[str | None], archives: Mapping[str, Any]) -> dict[str, Any]:
        merge = self._model.pop("merge_method", None)
        name = "".join(c if c.isalnum() or c in "_-" else "-" for c in self._model_name.lower())
        if len(modalities) > 1 and merge in (None, "none", "None", "dict"):
            self._remarks.append(f"merge_method {merge}: one layer for each modality, as TerraTorch writes a tree each")
            return {f"{name}_{self._archive_name(one)}": self._layer([one], archives, None) for one in modalities}
        return {name: self._layer(modalities, archives, merge)}

    def _layer(
        self, modalities: Sequence[str | None], archives: Mapping[str, Any], merge: str | None
    ) -> dict[str, Any]:
        known, pooled = self._known(self._model_name), self._task.get("embedding_pooling")
        names = [self._archive_name(one) for one in modalities]
        if pooled not in _POOLING:
            raise RequestError(f"embedding_pooling: {printable(pooled, 60)} is none of {', '.join(map(str, _POOLING))}")
        backbone: dict[str, Any] = {"name": "terratorch", "model": self._model_name, "pooling": _POOLING[pooled]}
        if known is not None and known.family == "terramind":
            backbone["modalities"] = [_MODALITY.get(str(one), str(one)) for one in modalities]
            unused = [
                band for one in backbone["modalities"] if one in MODALITIES for band in MODALITIES[one].bands
                if band not in {band for name in names for band in archives[name]["bands"]}
            ]  # fmt: skip
            backbone |= {"without": list(dict.fromkeys(unused))} if unused else {}
            backbone |= {"merge": merge} if merge and len(modalities) > 1 else {}
        layers = self._task.get("layers") or [-1]
        if layers != [-1]:
            backbone["layers"] = list(layers)
            if len(layers) > 1:
                self._remarks.append(f"layers {layers}: side by side in a vector; TerraTorch writes a folder for each")
        backbone |= self._statistics(modalities, archives)
        patch = known.patch_px if known else 16
        if known is None:
            self._remarks.append(f"{self._model_name}: the size of its cells is not known here; cell_px is {patch}")
        elif known.coordinates:
            self._remarks.append(
                f"{self._model_name} is told dates and places here; TerraTorch's task tells it none: vectors differ"
            )
        side, halo = self._tile(patch) if self._tiled else (self._side(), 0)
        layer: dict[str, Any] = {
            "archives": names, "backbone": backbone, "chip_px": side, "halo_px": halo,
            "cell_px": patch if backbone["pooling"] == "none" else side - 2 * halo,
            "shard_chips": 4 if self._tiled else 8,
        }  # fmt: skip
        self._remarks.append(
            f"layers: name the file of published weights with `weights`, or run `embedcube weights`: {self._model_name}"
        )
        return layer | self._over_time()

    def _over_time(self) -> dict[str, Any]:
        old = self._task.get("temporal_cfg") or {}
        use = old.get("temporal_wrapper", False) or self._model.get("use_temporal", False)
        how = old.get("temporal_pooling") or self._model.get("temporal_pooling") or "keep"
        if not use or how == "keep":
            return {}
        if how not in _OVER_TIME:
            raise RequestError(f"temporal_pooling: {printable(how, 60)} is none of keep, {', '.join(_OVER_TIME)}")
        count = 2 if how == "diff" else self._model.get("temporal_n_timestamps") or 4
        if count not in (2, 3, 4, 6, 12):
            raise RequestError(f"temporal_n_timestamps: a year does not divide into {count} frames of whole months")
        self._remarks.append(f"temporal_pooling {how}: a window of a year with {count} frames; is that your data?")
        return {"over_time": how, "frames": f"{12 // count} months" if count < 12 else "1 month"}

    def _statistics(self, modalities: Sequence[str | None], archives: Mapping[str, Any]) -> dict[str, Any]:
        """Mean and standard deviation of every band, in the units of the archive's values."""
        found: dict[str, list[float]] = {"mean": [], "std": []}
        for one in modalities:
            archive = archives[self._archive_name(one)]
            # stores have no scale: their DN are those before TerraTorch's factor
            factor = 1 / self._constant(one) if self._stores else self._unit(one)
            for ours, theirs in (("mean", "means"), ("std", "stds")):
                numbers = self._of(theirs, one)
                if not isinstance(numbers, list) or len(numbers) != len(archive["bands"]):
                    self._remarks.append(f"data.{theirs}: none for the {len(archive['bands'])} bands; the model's own")
                    return {}
                found[ours] += [round(float(number) * factor, 6) for number in numbers]
        return found

    def _tile(self, patch: int) -> tuple[int, int]:
        """Side of a tile, and of its border of whole tokens that the next tile covers too."""
        tiles = self._task.get("tile_cfg") or {}
        side, stride = int(tiles.get("crop") or 224), int(tiles.get("stride") or tiles.get("crop") or 224)
        halo = -(-max(0, side - stride) // (2 * patch)) * patch
        self._remarks.append(
            f"use_tiled: a token is that of the one tile of {side} px in whose middle it lies, with {halo} px around; "
            "TerraTorch writes a file for each tile, and tokens where tiles overlap in each of them"
        )
        return side, halo

    def _side(self) -> int:
        """Side of a chip: what the last transform makes of it."""
        for split in SPLITS:
            for transform in reversed(self._data.get(f"{split}transform") or []):
                arguments = transform.get("init_args") if isinstance(transform, dict) else None
                if isinstance(arguments, dict) and isinstance(side := arguments.get("height"), int):
                    if "Resize" in str(transform.get("class_path")):
                        self._remarks.append(f"data.{split}transform: Resize to {side}: pixels are never resampled "
                                             "here; the middle of the chip is taken")  # fmt: skip
                    return side
        self._remarks.append("data: no transform names the size of a chip; chip_px is 224")
        return 224

    def _left_over(self) -> Iterator[str]:
        """A line for each key that has no counterpart."""
        given = self._task.keys() | self._data.keys()
        yield from (f"{key}: left out; {why}" for key, why in NOT_NEEDED.items() if key in given)
        if path := self._model.get("ckpt_path"):
            yield f"backbone_ckpt_path: name the file with the layer's key `weights`: {path}"
        for block, arguments, known in (
            ("model_args", self._model, OF_MODEL), ("model", self._task, OF_TASK), ("data", self._data, OF_DATA),
        ):  # fmt: skip
            for key in sorted(arguments.keys() - known - NOT_NEEDED.keys()):
                yield f"{block}.{key}: {printable(arguments[key], 80)} is not translated"
