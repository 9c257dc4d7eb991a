"""Who may do what on a bridge: rules of the hub, by the names in certificates.

or1-gateway   put=or1                  # may put the messages of site or1
ward          get=or1,or2 ask=or1      # may get those of two sites, and ask one of them
hub2          put=* get=* ask=*        # another hub of the same bridge
*             get=lobby                # every certificate of the authority
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from igtl.bridge.names import (
    ALL,
    checked_site,
    clock_key,
    messages_key,
    permission_key,
    presence_key,
    request_key,
    site_chunk,
)

VERBS: Final = ("put", "get", "ask")
_SUBSCRIBES: Final = ["declare_liveliness_subscriber", "liveliness_query"]
_PUBLISHES: Final = ["put", "reply", "declare_queryable", "liveliness_token"]
_MESSAGES: Final = [*_PUBLISHES, *_SUBSCRIBES, "declare_subscriber", "query", "delete"]


class Rule(NamedTuple):
    """What a certificate allows.

    Attributes:
        name: its common name; `*` for every certificate.
        may: sites by verb; `*` for all of them.
    """

    name: str
    may: dict[str, list[str]]

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read a rule from a line of text.

        Raises:
            ValueError: it is no rule.
        """
        name, *parts = text.split()
        may: dict[str, list[str]] = {}
        for part in parts:
            verb, equals, sites = part.partition("=")
            if verb not in VERBS or not equals or not sites:
                raise ValueError(
                    f"{text!r}: {part!r} is none of put=SITES, get=SITES, ask=SITES, where SITES "
                    "are names with commas between them, or *"
                )
            may[verb] = [s if s == ALL else checked_site(s) for s in sites.split(",")]
        if not may:
            raise ValueError(f"{text!r} allows nothing: NAME put=SITES get=SITES ask=SITES")
        return cls(name, may)


def rules_of(lines: Iterable[str]) -> list[Rule]:
    """Return the rules in lines of text; what is behind # is a comment.

    Raises:
        ValueError: a line is no rule.
    """
    texts = (line.partition("#")[0].strip() for line in lines)
    return [Rule.parse(text) for text in texts if text]


def _of_site(verb: str, site: str) -> list[tuple[list[str], list[str]]]:
    """Return kinds of messages and keys that the hub must take for this."""
    chunk = site_chunk(site)
    messages, ask = messages_key(site), request_key(site)
    presence, clock = f"igtl/{chunk}/@alive/**", f"igtl/{chunk}/@clock/*"
    allowed = ["query"], [permission_key(verb, site)]
    if verb == "put":
        own = [messages, presence, clock, ask]
        return [allowed, (_PUBLISHES, own), (_SUBSCRIBES, [presence])]
    if verb == "get":
        return [
            allowed, (["declare_subscriber", "query"], [messages]), (["query"], [clock]),
            (_SUBSCRIBES, [presence]),
        ]  # fmt: skip
    return [allowed, (["query"], [ask])]


def access_control(rules: list[Rule]) -> dict[str, Any]:
    """Return the rules in the form of Zenoh's configuration.

    What comes into the hub is checked; the hub sends only what was subscribed to.
    """
    everything = [
        messages_key(ALL), presence_key(ALL), f"igtl/{ALL}/@alive/**", clock_key(ALL),
        request_key(ALL), "igtl/@may/**",
    ]  # fmt: skip
    found: list[dict[str, Any]] = []
    policies = []
    subjects: list[dict[str, Any]] = [{"id": ALL}]

    def add(flow: str, messages: list[str], keys: list[str]) -> str:
        number = str(len(found))
        found.append({
            "id": number, "permission": "allow", "flows": [flow], "messages": messages,
            "key_exprs": keys,
        })  # fmt: skip
        return number

    general = [
        add("egress", _MESSAGES, everything),
        add("ingress", ["query"], [permission_key("know", "hub")]),
    ]
    policies.append({"rules": general, "subjects": [ALL]})
    for rule in rules:
        pairs = [(verb, site) for verb, sites in rule.may.items() for site in sites]
        numbers = [add("ingress", *allowed) for pair in pairs for allowed in _of_site(*pair)]
        if rule.name != ALL and not any(s["id"] == rule.name for s in subjects):
            subjects.append({"id": rule.name, "cert_common_names": [rule.name]})
        policies.append({"rules": numbers, "subjects": [rule.name]})
    return {
        "enabled": True, "default_permission": "deny", "rules": found, "subjects": subjects,
        "policies": policies,
    }  # fmt: skip
