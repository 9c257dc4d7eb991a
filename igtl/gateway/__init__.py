"""Relay, recorder and bridge in one process, made from a configuration.

    with Gateway(load("hospital.toml")) as gateway:
        ...

Sources hand frames to routes, and routes to sinks; `igtl gateway` runs it as a service.
"""

from igtl.gateway.config import Config, ConfigError, Entry, Problem, load
from igtl.gateway.gateway import Gateway
from igtl.gateway.service import Service

__all__ = ["Config", "ConfigError", "Entry", "Gateway", "Problem", "Service", "load"]
