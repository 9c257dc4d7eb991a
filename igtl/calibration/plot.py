"""A picture of the residuals of a calibration (matplotlib: `igtl[calibration]`)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from igtl.calibration.steps import Outcome
from igtl.extras import need

_ONE, _OTHER = "#0072b2", "#d55e00"  # that colour-blind people can tell apart


def plot(outcome: Outcome, path: str | os.PathLike[str]) -> None:
    """Write a picture: the residual of each sample, and where it comes from.

    Args:
        outcome: the calibration.
        path: of the file; its suffix chooses the format, as matplotlib has it.

    Raises:
        ModuleNotFoundError: matplotlib is missing; the text says which package has it.
        OSError: the file cannot be written.
        ValueError: the suffix is unknown.
    """
    figure = need("matplotlib.figure", "calibration").Figure(
        figsize=(11, 4.8), layout="constrained"
    )
    left, right = figure.subplots(1, 2)
    result, panel, unit = outcome.result, outcome.panel, outcome.unit
    residuals, used = result.residuals.ravel(), result.used.ravel()
    number = np.arange(len(residuals))
    left.plot(number[used], residuals[used], ".", color=_ONE, label="used", markersize=4)
    if result.rejected:
        out = ~used & np.isfinite(residuals)
        left.plot(number[out], residuals[out], "x", color=_OTHER, label="left out")
    left.axhline(result.error, color="0.3", linewidth=1, label=f"error {result.error:.3g} {unit}")
    left.set(xlabel="sample", ylabel=f"residual, {unit}", title="residuals")
    left.set_ylim(bottom=0)
    left.legend(loc="upper right")
    styles: tuple[dict[str, Any], ...] = (
        {"color": _ONE},
        {"color": _OTHER, "linestyle": "", "marker": ".", "markersize": 4},
    )
    for (label, x, y), style in zip(panel.lines, styles, strict=False):
        right.plot(x, y, label=label, linewidth=1, **style)
    if panel.lines:
        right.legend()
    if panel.points is not None:
        x, y, values = panel.points
        shown = right.scatter(x, y, c=values, s=9, cmap="viridis")
        figure.colorbar(shown, ax=right, label=f"residual, {unit}")
        right.set_aspect("equal", "datalim")
        if panel.y_label == "row":  # of a picture: the first is above
            right.invert_yaxis()
    right.set(xlabel=panel.x_label, ylabel=panel.y_label, title=panel.title)
    figure.suptitle(f"{outcome.kind}  {', '.join(t.name for t in outcome.transforms)}".rstrip())
    figure.savefig(path, dpi=110)
