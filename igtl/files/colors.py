"""COLORT and the colours of matplotlib and PIL; LBMETA for the labels of a label map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from igtl.errors import EncodeError
from igtl.messages.imaging import ColorTable, Image, LabelInfo, LabelMeta


def from_matplotlib(colors: Any, *, device_name: str = "") -> ColorTable:
    """From a Colormap, or its name: 256 RGB colours. The device name is that of the image."""
    if isinstance(colors, str):
        import matplotlib

        colors = matplotlib.colormaps[colors]
    shades = np.linspace(0, 1, 256) if colors.N >= 256 else np.minimum(np.arange(256), colors.N - 1)
    return ColorTable(colors(shades, bytes=True)[:, :3], device_name=device_name)


def to_matplotlib(table: ColorTable) -> Any:
    """As a ListedColormap of the table's colours."""
    from matplotlib.colors import ListedColormap

    rgb = _rgb(table) / 255.0
    return ListedColormap(rgb, name=table.device_name or "igtl")


def from_pil(image: Any, *, device_name: str = "") -> ColorTable:
    """From a PIL image with a palette (mode "P").

    Raises:
        EncodeError: the image has no palette.
    """
    palette = image.getpalette("RGB")
    if palette is None:
        raise EncodeError("ColorTable", "table", f"an image of mode {image.mode!r} has no palette")
    rgb = np.zeros((256, 3), np.uint8)
    given = np.array(palette, np.uint8).reshape(-1, 3)[:256]
    rgb[: len(given)] = given
    return ColorTable(rgb, device_name=device_name)


def to_pil(table: ColorTable) -> list[int]:
    """Return the table as a list for `PIL.Image.putpalette`."""
    flat: list[int] = _rgb(table)[:256].ravel().tolist()
    return flat


def _rgb(table: ColorTable) -> Any:
    """(n, 3), uint8; grey values as grey colours."""
    values = table.table
    if values.ndim == 2:
        return values
    if values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    return np.repeat(values[:, np.newaxis], 3, 1)


def label_meta(
    image: Image, names: Mapping[int, str], table: ColorTable | None = None
) -> LabelMeta:
    """Make the LBMETA of the labels of a label map.

    Args:
        image: the label map; the device name is that of it.
        names: by label; every label of the image needs one.
        table: colours by label; default none.

    Raises:
        EncodeError: a label has no name, or does not fit 8 bits.
    """
    present = [int(n) for n in np.unique(image.array) if n]
    for label in present:
        if label not in names:
            raise EncodeError("LabelMeta", "labels", f"label {label} of the image has no name")
    for label in names:
        if not 0 < label < 256:
            raise EncodeError("LabelMeta", "labels", f"label {label}, 1 to 255 can be sent")
    colors = None if table is None else _rgb(table)
    return LabelMeta([
        LabelInfo(
            name, image.device_name, label=label, size=image.size, owner="",
            color=(0, 0, 0, 0) if colors is None else (*colors[label], 255),
        )
        for label, name in sorted(names.items())
    ], device_name=image.device_name)  # fmt: skip
