"""Reconnection in asyncio; see `igtl.retry`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Unpack

from igtl.aio.link import Link, connect
from igtl.protocol import PORT
from igtl.retry import Backoff, OnEvent, Supervisor
from igtl.sync import Settings, checked_settings


def reconnect(
    host: str = "localhost",
    port: int = PORT,
    *,
    backoff: Backoff | None = None,
    on_event: OnEvent | None = None,
    **settings: Unpack[Settings],
) -> AsyncGenerator[Link]:
    """A link after the other, for ever: `async for link in igtl.aio.reconnect("tracker"): ...`.

    See `igtl.reconnect`.
    """
    supervisor = Supervisor((host, port), backoff or Backoff(), on_event)
    return _links(host, port, supervisor, checked_settings(settings))


async def _links(
    host: str, port: int, supervisor: Supervisor, settings: Settings
) -> AsyncGenerator[Link]:
    while True:
        try:
            link = await connect(host, port, ends_quietly=True, **settings)
        except OSError as error:
            await asyncio.sleep(supervisor.failed(error))
            continue
        supervisor.connected()
        try:
            yield link
        finally:
            await link.close()
        await asyncio.sleep(supervisor.lost(link.close_reason))
