"""A gateway as a service: its page, its signals, what it tells systemd."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, Final, Self

from igtl.gateway.config import Config, ConfigError, load
from igtl.gateway.gateway import Gateway
from igtl.gateway.metrics import Metrics
from igtl.gateway.systemd import Notifier
from igtl.gateway.web import Web
from igtl.log import log

_TICK: Final = 0.5  # seconds
_OPENING: Final = 10.0  # seconds until the service counts as begun, open or not


class Service:
    """Runs a gateway from a file until `stop`.

    Args:
        path: of the configuration.

    Attributes:
        gateway: what runs.
        web: its page; None: the configuration wants none.

    Raises:
        ConfigError, OSError: see `igtl.gateway.load`.
        MissingExtra: prometheus-client is missing.
    """

    def __init__(self, path: str | os.PathLike[str], notifier: Notifier | None = None) -> None:
        self._path = path
        config = load(path)
        self._notifier = notifier or Notifier()
        self._woken = threading.Event()
        self._again = self._ended = False
        self.gateway = Gateway(Config(http=None))
        self._metrics = None if config.http is None else Metrics(self.gateway)
        self.web: Web | None = None
        self._use(config)

    def _use(self, config: Config) -> list[str]:
        old = None if self.web is None else self.web.entry.place
        changed = self.gateway.apply(config)
        if config.http != old:
            if self.web is not None:
                self.web.close()
            self.web = None
            if config.http is not None:
                self._metrics = self._metrics or Metrics(self.gateway)
                self.web = Web(config.http, self.gateway, self._metrics)
                self.web.start()
            changed = [*changed, "http"]
        return changed

    # -- signals: these only note what is wanted

    def reload(self, *_: Any) -> None:
        """Read the configuration again, soon; a handler of a signal."""
        self._again = True
        self._woken.set()

    def stop(self, *_: Any) -> None:
        """End, soon; a handler of a signal."""
        self._ended = True
        self._woken.set()

    # -- the work of the main thread

    def run(self) -> None:
        """Work until `stop`."""
        self.gateway.wait_open(_OPENING)
        self._say_state()
        self._notifier.ready()
        log(logging.INFO, "the gateway has begun: %s", str(self.gateway.config))
        tick = _TICK if self._notifier.watchdog is None else min(_TICK, self._notifier.watchdog / 4)
        try:
            while not self._ended:
                self._woken.wait(tick)
                self._woken.clear()
                if self._again and not self._ended:
                    self._again = False
                    self._read_again()
                self._say_state()
                self._watch()
        finally:
            self._notifier.stopping()

    def _read_again(self) -> None:
        self._notifier.reloading()
        result = "invalid"
        try:
            changed = self._use(load(self._path))
            result = "changed" if changed else "unchanged"
            log(logging.INFO, "the configuration was read again: %s",
                ", ".join(changed) or "nothing has changed")  # fmt: skip
        except ConfigError as error:
            for line in error.lines:
                log(logging.ERROR, "%s", line)
            log(logging.ERROR, "the old configuration is kept")
        except (OSError, ImportError) as error:
            log(logging.ERROR, "the old configuration is kept: %s", error, cause=error)
        if self._metrics is not None:
            self._metrics.reloads[result] += 1
        self._notifier.ready()

    def _say_state(self) -> None:
        faults = self.gateway.faults
        told = "; ".join(f"{what}: {why}" for what, why in sorted(faults.items()))
        self._notifier.status(told or f"{self.gateway.config}: all work")

    def _watch(self) -> None:
        """Tell that the work goes on, if it does: no frame is stuck on its way."""
        watchdog = self._notifier.watchdog
        if watchdog is None:
            return
        stuck = self.gateway.stuck()
        if stuck < watchdog / 2:
            self._notifier.alive()
        else:
            log(logging.ERROR, "a frame has been on its way for %.1f s", stuck)

    def close(self) -> None:
        """End everything."""
        if self.web is not None:
            self.web.close()
        self.gateway.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
