"""Options with which 3D Slicer gets what it needs."""

from __future__ import annotations

from typing import Final

from igtl.options import ServerSettings
from igtl.session.backoff import Backoff

RETRY: Final = Backoff(0.1, 1.0)
"""Slicer comes back within a second, and so does this end."""


def checked(settings: ServerSettings) -> ServerSettings:
    """Return the options of the caller, with the defaults of this profile.

    Header version 2 from the first byte, since Slicer says no hello when it comes back; the newest
    of each name, since Slicer shows only that.

    Raises:
        ValueError: the policy is "block": this profile waits for no Slicer.
    """
    if settings.get("policy") == "block":
        raise ValueError("a busy 3D Slicer would stop the program: policy 'block' is not for it")
    chosen: ServerSettings = {"version": 2, "policy": "latest"}
    chosen.update(settings)
    return chosen
