"""What a message says, in a few words: for a line of `igtl dump`, and a cell of `igtl monitor`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

import igtl
from igtl.geometry import is_rigid
from igtl.messages.plus import tool_states


def value(message: igtl.Message) -> str:
    """Return the content of a message in a few words."""
    match message:
        case igtl.Transform() as m:
            x, y, z = m.position
            status = m.metadata.get("TransformStatus", "")
            return f"{x:.1f} {y:.1f} {z:.1f} mm {status}".rstrip()
        case igtl.TrackingData() as m:
            shown = (
                tool.name if tool.status == "OK" else f"{tool.name} {tool.status}"
                for tool in tool_states(m)
            )  # fmt: skip
            return f"{len(m.tools)} tools: {', '.join(shown)}"
        case igtl.QuaternionTrackingData() as m:
            return f"{len(m.tools)} tools: {', '.join(m.tools.names)}"
        case igtl.Image() as m if missing := _invalid(m):
            return f"{m.summary()} {missing}"
        case igtl.Sensor() as m:
            return f"{' '.join(f'{v:.3g}' for v in m.values)} {m.unit}"
        case igtl.String() as m:
            return repr(m.string)
        case m:
            return m.summary()


def values(message: igtl.Message) -> list[str]:
    """Return the content of a message, with the angles of a pose.

    At full length first, then shorter.
    """
    match message:
        case igtl.Transform() as m:
            x, y, z = m.position
            status = m.metadata.get("TransformStatus", "")
            place = f"{x:.1f} {y:.1f} {z:.1f} mm"
            if not is_rigid(m.matrix):
                wide = f"{x:8.2f} {y:8.2f} {z:8.2f} mm"
                return [f"{each}  not rigid {status}".rstrip() for each in (wide, place)]
            a, b, c = angles(m.matrix)
            return [
                f"{x:8.2f} {y:8.2f} {z:8.2f} mm {a:7.1f} {b:7.1f} {c:7.1f}° {status}".rstrip(),
                f"{x:6.1f} {y:6.1f} {z:6.1f} mm {a:4.0f} {b:4.0f} {c:4.0f}° {status}".rstrip(),
                f"{place} {a:.0f} {b:.0f} {c:.0f}° {status}".rstrip(),
                place,
            ]
        case m:
            return [value(m)]


def angles(matrix: npt.ArrayLike) -> tuple[float, float, float]:
    """Return the angles about x, y and z in degrees, applied in this order, of a rotation."""
    r = np.asarray(matrix, np.float64)
    level = math.hypot(r[0, 0], r[1, 0])
    about_y = math.atan2(-r[2, 0], level)
    if level > 1e-6:
        about_x, about_z = math.atan2(r[2, 1], r[2, 2]), math.atan2(r[1, 0], r[0, 0])
    else:  # the first and the third turn about one axis
        about_x, about_z = math.atan2(-r[1, 2], r[1, 1]), 0.0
    x, y, z = (round(math.degrees(a), 1) + 0.0 for a in (about_x, about_y, about_z))
    return x, y, z


def _invalid(image: igtl.Image) -> str:
    """Return the tools that are not valid, of an image of PLUS, which is sent all the same."""
    end = "TransformStatus"
    states = {key: value for key, value in image.metadata.items() if key.endswith(end)}
    return ", ".join(
        f"{key.removesuffix(end)} {value}" for key, value in states.items() if value != "OK"
    )
