"""Drawing of previews (Pillow): maps with title, scale bar and legend, and sheets of many small maps.

A cell becomes a square of pixels of one colour: nothing is interpolated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from embedcube.cube.encoding import FAILED, MASKED, NO_DATA, NOT_PROCESSED, VALID, VALID_INCOMPLETE

LEAST_WIDTH = 900
"""width of a picture in pixels, at least"""

MAP_SIDE = 1200
"""pixels of the longer side of a map, at most"""

_GAP = 12
"""pixels between the maps of a sheet"""

_MARGIN = 24
_INK, _PALE, _FRAME, _PAPER = (25, 25, 25), (95, 95, 95), (150, 150, 150), (255, 255, 255)

EMPTY = {
    NO_DATA: "missing (no_data)",
    MASKED: "masked (clouds and the like)",
    FAILED: "failed (unreadable input)",
    NOT_PROCESSED: "not processed",
}
"""Legend of the cells without a vector. They are patterns of greys, which no vector shows."""

_SWATCH = (34, 20)
"""width and height in pixels of a box of the legend"""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Colours and status of the cells of one window; of a large window every n-th row and column."""

    rgb: NDArray[np.uint8]
    """(y, x, 3)"""
    status: NDArray[np.uint8]
    """(y, x)"""
    label: str
    shares: dict[int, float]
    """share of all cells of the window that have each status"""

    def thinned(self, side: int) -> "Panel":
        """A panel with fewer cells: at most `side` along the longer side."""
        step = thinning(self.status.shape, side)
        return Panel(
            rgb=self.rgb[::step, ::step], status=self.status[::step, ::step], label=self.label, shares=self.shares
        )


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is written around the maps of a zone."""

    title: str
    lines: tuple[str, ...]
    """below the title"""
    colours: str
    """what the colours mean"""
    cell: float
    """width of a cell on the ground, in `unit`"""
    unit: str
    """"m", or the unit of the CRS where its metres are unknown"""
    where: str = ""
    """latitude for which the scale bar holds, where it holds for one only"""


@dataclass(frozen=True, kw_only=True)
class ScaleBar:
    """A round length and its pixels."""

    label: str
    pixels: int


def thinning(shape: tuple[int, ...], side: int) -> int:
    """Smallest n with which every n-th row and column of cells has at most `side` cells along the longer side."""
    return max(1, -(-max(shape) // side))


def enlargement(shape: tuple[int, ...], side: int) -> int:
    """Side of a cell in pixels, at least 1, so that the longer side of a map has at most `side` pixels."""
    return max(1, side // max(shape))


def sheet_side(windows: int) -> int:
    """Pixels of the longer side of a map on a sheet, at most: up to four maps lie beside one another."""
    return MAP_SIDE // min(4, windows) - _GAP


def scale_bar(length_of_pixel: float, unit: str, longest_px: int) -> ScaleBar:
    """The longest of 1, 2 and 5 times a power of ten that fits into `longest_px`."""
    most = length_of_pixel * longest_px
    power = 10.0 ** np.floor(np.log10(most))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= most)
    label = f"{length / 1000:g} km" if unit == "m" and length >= 1000 else f"{length:g} {unit}"
    return ScaleBar(label=label, pixels=round(length / length_of_pixel))


def paint(rgb: NDArray[np.uint8], status: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Colours (y, x, 3) of a map with `factor` x `factor` pixels for each cell; patterns where there is no vector."""
    pixels = rgb.repeat(factor, axis=0).repeat(factor, axis=1)
    statuses = status.repeat(factor, axis=0).repeat(factor, axis=1)
    for value in EMPTY:
        cells = statuses == value
        if cells.any():
            pixels[cells] = pattern(value, *statuses.shape)[cells]
    return pixels


def pattern(status: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Greys (y, x, 3) that stand for a status without a vector: dots, stripes, a lattice, or plain white."""
    y, x = np.ogrid[:rows, :columns]
    if status == NO_DATA:
        drawn, back, ink = (y % 8 == 2) & (x % 8 == 2) | (y % 8 == 6) & (x % 8 == 6), 226, 150
    elif status == MASKED:
        drawn, back, ink = (x + y) % 8 < 3, 240, 160
    elif status == FAILED:
        drawn, back, ink = ((x + y) % 10 < 2) | ((x - y) % 10 < 2), 90, 205
    else:
        drawn, back, ink = (y + x) < 0, 255, 255
    grey = np.where(np.broadcast_to(drawn, (rows, columns)), ink, back).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def draw_map(panel: Panel, caption: Caption, step: int) -> Image.Image:
    """A map of one window; the panel holds every `step`-th row and column of its cells."""
    factor = enlargement(panel.status.shape, MAP_SIDE)
    pixels = paint(panel.rgb, panel.status, factor)
    width = pixels.shape[1]
    page = _Page(max(LEAST_WIDTH, width + 2 * _MARGIN))
    page.write(caption.title, 28, _INK)
    page.write(panel.label, 20, _INK)
    _write_lines(page, caption, step)
    page.skip(8)
    page.place(pixels, (page.width - width) // 2)
    page.skip(14)
    page.bar(scale_bar(caption.cell * step / factor, caption.unit, max(width, LEAST_WIDTH) // 4), caption.where)
    page.legend(panel.shares)
    page.write(caption.colours, 15, _PALE)
    return page.finished()


def draw_sheet(panels: list[Panel], caption: Caption, step: int, note: str) -> Image.Image:
    """Small maps of many windows on one picture; the text `note` says which windows they are."""
    factor = enlargement(panels[0].status.shape, sheet_side(len(panels)))
    columns = panels[0].status.shape[1] * factor
    # a label needs some width too
    pitch = max(columns, 165) + _GAP
    across = min(len(panels), (MAP_SIDE + _GAP) // pitch)
    page = _Page(max(LEAST_WIDTH, across * pitch - _GAP + 2 * _MARGIN))
    page.write(caption.title, 28, _INK)
    page.write(note, 20, _INK)
    _write_lines(page, caption, step)
    page.skip(8)
    left = (page.width - (across * pitch - _GAP)) // 2
    for first in range(0, len(panels), across):
        row = panels[first : first + across]
        page.place_row([paint(panel.rgb, panel.status, factor) for panel in row], [p.label for p in row], left, pitch)
    page.bar(scale_bar(caption.cell * step / factor, caption.unit, max(60, columns // 2)), caption.where)
    page.legend({})
    page.write(caption.colours, 15, _PALE)
    return page.finished()


def draw_figure(
    pixels: NDArray[np.uint8], title: str, lines: Sequence[str], legend: Sequence[tuple[NDArray[np.uint8], str]]
) -> Image.Image:
    """A map of any numbers, given as colours (y, x, 3): title and lines above, a legend of colours and words below."""
    page = _Page(max(LEAST_WIDTH, pixels.shape[1] + 2 * _MARGIN))
    page.write(title, 28, _INK)
    for line in lines:
        page.write(line, 16, _PALE)
    page.skip(8)
    page.place(pixels, (page.width - pixels.shape[1]) // 2)
    page.skip(14)
    page.entries([(np.broadcast_to(colour, (*reversed(_SWATCH), 3)), text) for colour, text in legend])
    return page.finished()


def _write_lines(page: "_Page", caption: Caption, step: int) -> None:
    for line in caption.lines:
        page.write(line, 16, _PALE)
    if step > 1:
        page.write(f"One of {step} x {step} cells is shown; the GeoTIFF has all of them.", 16, _PALE)


class _Page:
    """A picture to which text and maps are added from top to bottom."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._y = _MARGIN
        self._image = Image.new("RGB", (width, 256), _PAPER)

    def finished(self) -> Image.Image:
        return self._image.crop((0, 0, self.width, self._y + _MARGIN))

    def skip(self, pixels: int) -> None:
        self._y += pixels

    def write(self, text: str, size: int, colour: tuple[int, int, int]) -> None:
        """Add a paragraph, with line breaks at the width of the page."""
        font = _font(size)
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > self.width - 2 * _MARGIN:
                self._line(line, font, size, colour)
                longer = word
            line = longer
        self._line(line, font, size, colour)

    def _line(self, text: str, font: Any, size: int, colour: tuple[int, int, int]) -> None:
        self._grown(size * 2).text((_MARGIN, self._y), text, fill=colour, font=font)
        self._y += round(size * 1.4)

    def place(self, pixels: NDArray[np.uint8], x: int) -> None:
        """Add a map in a thin frame, `x` pixels from the left."""
        draw = self._grown(pixels.shape[0] + 2)
        self._paste(draw, pixels, x, self._y)
        self._y += pixels.shape[0]

    def place_row(self, maps: list[NDArray[np.uint8]], labels: list[str], left: int, pitch: int) -> None:
        """Add maps beside one another, `pitch` pixels apart, with a label above each."""
        size = 14
        height = size + 8 + maps[0].shape[0] + 14
        draw = self._grown(height)
        for i, (pixels, label) in enumerate(zip(maps, labels, strict=True)):
            draw.text((left + i * pitch, self._y), label, fill=_INK, font=_font(size))
            self._paste(draw, pixels, left + i * pitch, self._y + size + 8)
        self._y += height

    def bar(self, bar: ScaleBar, where: str) -> None:
        """Add a scale bar and its length in words."""
        draw = self._grown(40)
        draw.rectangle((_MARGIN, self._y + 6, _MARGIN + bar.pixels - 1, self._y + 13), fill=_INK)
        draw.text((_MARGIN + bar.pixels + 10, self._y), f"{bar.label} {where}".strip(), fill=_INK, font=_font(16))
        self._y += 32

    def legend(self, shares: dict[int, float]) -> None:
        """Add the legend: a box for cells with a vector and for each status without one, with its share of cells."""
        width, height = _SWATCH
        vectors = sum(shares.get(status, 0) for status in (VALID, VALID_INCOMPLETE))
        statuses: list[tuple[int | None, str]] = [(None, "vectors"), *EMPTY.items()]
        entries = []
        for status, text in statuses:
            if shares:
                text += f" {vectors if status is None else shares.get(status, 0):.1%}"
            entries.append(
                (_spectrum(height, width) if status is None else pattern(status, height, width), text),
            )
        self.entries(entries)

    def entries(self, entries: Sequence[tuple[NDArray[np.uint8], str]]) -> None:
        """Add boxes (y, x, 3) with their words, as many in a line as fit."""
        x, font, (width, height) = _MARGIN, _font(15), _SWATCH
        for swatch, text in entries:
            needed = width + 8 + int(font.getlength(text)) + 22
            if x > _MARGIN and x + needed > self.width - _MARGIN + 22:
                x = _MARGIN
                self._y += height + 10
            draw = self._grown(height + 10)
            self._paste(draw, swatch, x, self._y)
            draw.text((x + width + 8, self._y + 1), text, fill=_INK, font=font)
            x += needed
        self._y += height + 14

    def _paste(self, draw: ImageDraw.ImageDraw, pixels: NDArray[np.uint8], x: int, y: int) -> None:
        height, width = pixels.shape[:2]
        self._image.paste(Image.fromarray(pixels), (x, y))
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=_FRAME)

    def _grown(self, pixels: int) -> ImageDraw.ImageDraw:
        """Make room for so many pixels below the current line, and return the object to draw with."""
        needed = self._y + pixels + _MARGIN
        if needed > self._image.height:
            larger = Image.new("RGB", (self.width, needed * 5 // 4), _PAPER)
            larger.paste(self._image, (0, 0))
            self._image = larger
        return ImageDraw.Draw(self._image)


def _spectrum(rows: int, columns: int) -> NDArray[np.uint8]:
    """Colours (y, x, 3) of a box of the legend that stands for cells with a vector."""
    share = np.linspace(0, 2 * np.pi, columns)
    rgb = np.stack([128 + 100 * np.cos(share + turn) for turn in (0, 2 * np.pi / 3, 4 * np.pi / 3)], axis=-1)
    return np.repeat(rgb.astype(np.uint8)[None], rows, axis=0)


def _font(size: int) -> Any:
    """Pillow's own font, which is installed with Pillow."""
    return ImageFont.load_default(size=size)
