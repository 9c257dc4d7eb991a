"""The configuration of a gateway: what is wrong with it is said with the line, the key and what is
right."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from igtl.cli import main
from igtl.gateway import ConfigError, load
from igtl.gateway.lines import lines_of

GOOD = """\
[transforms]
TrackerToRoom = [[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]

[source.or1]
connect = "tracker:18944"
hello = true
[source.console]
listen = ":0"
allow = ["127.0.0.0/8"]

[sink.clients]
serve = "localhost:18945"
max_clients = 5
version = "auto"
[sink.archive]
record = "rec"
rotate_bytes = 1_000_000

[route.all]
from = ["*"]
to = ["clients", "archive"]
rename = { "Probe*" = "OR1*" }
"""


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    path = tmp_path / "g.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as error:
        load(path)
    start = f"{path}:"
    assert str(error.value) == "\n".join(error.value.lines)
    assert all(line.startswith(start) for line in error.value.lines)
    return [line.removeprefix(start) for line in error.value.lines]


def test_a_right_one(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(GOOD)
    config = load(path)
    assert config.http == ("127.0.0.1", 9464)
    assert config.sources["or1"].kind == "connect"
    assert config.sources["or1"].place == ("tracker", 18944)
    assert config.sources["or1"].options == {"hello": True}
    assert config.sinks["archive"].place == tmp_path / "rec"
    assert config.routes["all"].get("from") == ("or1", "console")
    assert str(config) == "2 sources, 1 route, 2 sinks"
    moved = tmp_path / "moved.toml"
    moved.write_text("\n\n" + GOOD.replace("hello = true", "hello   =  true # yes"))
    assert load(moved) == config  # what is said counts, not where


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("[source.or1]", "[sorce.or1]", 4, ["no table 'sorce' (did you mean 'source'?)", "gateway"]),
        ("hello = true", "helo = true", 6, ["[source.or1] helo", "did you mean 'hello'?", "tls"]),
        ("hello = true", "hello = 1", 6, ["[source.or1] hello: must be True or False, not 1"]),
        ("hello = true", "ssl = 1", 6, ["there is no key 'ssl'"]),
        ("hello = true", 'udp = ":9"', 4, ["[source.or1] has connect and udp", "one of"]),
        ('connect = "tracker', 'conect = "tracker', 4, ["did you mean 'connect'", "simulate"]),
        ("tracker:18944", "tracker:x", 5, ["[source.or1] connect: 'tracker:x': 'x' is not a port"]),
        ("tracker:18944", "", 5, ["[source.or1] connect: must be a text, not ''"]),
        ("hello = true", 'ca = "no.pem"', 6, ["ca: there is no file", "no.pem"]),
        ("max_clients = 5", 'policy = "block"', 13, ["policy", "'drop_oldest'", "not 'block'"]),
        ("max_clients = 5", 'key = "g.toml"', 13, ["[sink.clients] key: needs cert"]),
        ("localhost:18945", "wss://localhost:1", 12, ["serve: wss:// needs cert"]),
        ('"auto"', '"old"', 14, ["version: must be one of 'as is', 'auto', 1, 2, not 'old'"]),
        ('"auto"', '1\nasks = "console"', 15, ["no 'console'", "can be asked are or1"]),
        ('"auto"', "true", 14, ["version: must be one of"]),
        ('record = "rec"', 'record = "no/rec"', 16, ["record: there is no folder"]),
        ("1_000_000", "-1", 17, ["rotate_bytes: must be a whole number, 1 or more, not -1"]),
        ('from = ["*"]', 'from = ["or2"]', 20, ["no source 'or2' (did you mean 'or1'?)", "console"]),
        ('from = ["*"]', 'from = "*"', 20, ["from: must be a list of texts, not '*'"]),
        ('from = ["*"]\n', "", 19, ["[route.all] needs from: a list of sources"]),
        ('to = ["clients", "archive"]', 'to = ["x"]', 21, ["no sink 'x'; the sinks are archive"]),
        ("rename =", "renam =", 22, ["did you mean 'rename'?"]),
        ('"OR1*"', '"OR1*" , Long = "' + "x" * 21 + '"', 22, ["[route.all] rename: ", "has 21 bytes, 20 fit"]),
        ('"OR1*"', '"*OR1*"', 22, ["'*OR1*' has more * than 'Probe*'"]),
        ("[0, 0, 0, 1]]", "[0, 0, 0, 2]]", 2, ["[transforms] TrackerToRoom", "rigid"]),
        ("[0, 0, 0, 1]]", "[0, 0, 0]]", 2, ["four rows of four numbers"]),
        ("TrackerToRoom", "room", 2, ["'room' is not of the form XToY"]),
        ("[route.all]", '[route.all]\nconvert = ["TDATA"]', 20, ["no 'TDATA'", "TDATA to TRANSFORM"]),
        ("[route.all]", "[route.all]\nmax_rate = 0", 20, ["must be a number above 0, not 0"]),
        ("[route.all]", "[route.all]\nmax_age = 1", 20, ["max_age: needs to_frame"]),
        ("[source.console]", "[source.sim]\nsimulate = ['trackr']\n[source.console]", 8,
         ["no 'trackr' (did you mean 'tracker'?)"]),
        ("[source.console]", "[source.site]\nsite = 'or2'\n[source.console]", 7, ["needs hub"]),
        ("[source.console]", "[source.site]\nsite = 'or2'\nhub = 'h:1'\n[source.console]", 9,
         ["[source.site] hub: 'h:1' is not an endpoint; give tcp/HOST:PORT or tls/HOST:PORT"]),
        ("[source.console]", "[source.site]\nsite = 'or2'\nhub = 'tcp/h:1'\nlease = 0.1\n[source.console]",
         10, ["[source.site] lease: must be at least 1 s"]),
        ("[sink.archive]", "[sink.site]\nsite = 'or2'\nhub = 'tcp/h:1'\nmax_age = 1\n[sink.archive]", 18,
         ["no key 'max_age'", "lease, max_queued, max_queued_bytes, open_timeout", "send_buffer"]),
        ("max_clients = 5", 'latch = ["STRING"]', 13, ["[sink.clients] latch: is not for version = 'auto'"]),
    ],
)  # fmt: skip
def test_what_is_wrong(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    assert old in GOOD
    (told,) = problems(tmp_path, GOOD.replace(old, new))
    assert told.startswith(f"{line}: ")
    for word in words:
        assert word in told


def test_all_of_it_is_said_by_line(tmp_path: Path) -> None:
    text = (
        GOOD.replace("hello", "helo").replace("18945", "x").replace('to = ["clients"', 'to = ["c"')
    )
    told = problems(tmp_path, text)
    assert [line.partition(":")[0] for line in told] == ["6", "12", "21"]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("[source.a]\nconnect = \n", "2: is not TOML"),
        ("[source.a]\n\nx = '''", "3: is not TOML"),
        (b"[source.a]\n# \xff\n", "2: is not UTF-8"),
        ("[source.a]\nconnect = 'h'\n", " there is no [route.NAME]"),
        ("source = 3\n[route.r]\nfrom=['a']\nto=['b']", "1: [source] must be a table, not 3"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, text: str | bytes, start: str) -> None:
    assert problems(tmp_path, text)[0].startswith(start)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    assert problems(tmp_path, b"#" * ((1 << 20) + 1)) == [" is larger than 1048576 bytes"]


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(GOOD)
    done = CliRunner().invoke(main, ["gateway", "--check", str(path)])
    assert (done.exit_code, done.output) == (0, f"{path}: 2 sources, 1 route, 2 sinks\n")
    path.write_text(GOOD.replace("hello", "helo"))
    for options in (["--check"], []):  # the service does not begin with it either
        done = CliRunner().invoke(main, ["gateway", *options, str(path)])
        assert done.exit_code == 2
        assert done.output.startswith(f"{path}:6: [source.or1] helo: there is no key 'helo'")
    assert CliRunner().invoke(main, ["gateway", str(tmp_path / "none.toml")]).exit_code == 2


# ---- lines ------------------------------------------------------------------------------------

TOML = '''# comment with [table] and a = 1
title = "a [x] = 1"
[source.or1] # x
connect = "a:1"
"odd.key" = [1, 2.5,
  { a = 1, b = "]" }, [ "x#" ] ]
multi = """
[no.table]
key = 1 """
after = 1.5e3
[source."q \\u0041".c]
d.e.f = 2
date = 1979-05-27 07:32:00
[[many]]
x = \'\'\'
 a \'\'\'
y = { p = { q = 1 }, r = [[1,2],
 [3,4]] }
last = ""
'''


def test_lines() -> None:
    tomllib.loads(TOML)
    found = {".".join(path): line for path, line in lines_of(TOML).items()}
    assert found == {
        "title": 2, "source": 3, "source.or1": 3, "source.or1.connect": 4,
        "source.or1.odd.key": 5, "source.or1.odd.key.a": 6, "source.or1.odd.key.b": 6,
        "source.or1.multi": 7, "source.or1.after": 10, "source.q A": 11, "source.q A.c": 11,
        "source.q A.c.d": 12, "source.q A.c.d.e": 12, "source.q A.c.d.e.f": 12,
        "source.q A.c.date": 13, "many": 14, "many.x": 15, "many.y": 17, "many.y.p": 17,
        "many.y.p.q": 17, "many.y.r": 17, "many.last": 19,
    }  # fmt: skip


KEYS = st.text("ab .\"'\\#=[]\té", min_size=0, max_size=5)
VALUES = st.recursive(
    st.one_of(st.integers(-5, 5), st.booleans(), st.text("a\"'\\\n#]}{,=[ ", max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def quoted(text: str) -> str:
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(escapes.get(c, c) for c in text) + '"'


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ", # a ] comment\n".join(map(written, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    return str(value).lower()


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_lines_of_any_toml(tables: dict[str, dict[str, Any]]) -> None:
    lines: list[str] = []
    expected = {}
    for name, table in tables.items():
        lines += f"[{quoted(name)}]".split("\n")
        expected[(name,)] = len(lines)
        for key, value in table.items():
            expected[name, key] = len(lines) + 1
            lines += f"{quoted(key)} = {written(value)}".split("\n")
    text = "\n".join(lines)
    assert tomllib.loads(text) == tables
    found = lines_of(text)
    assert {path: line for path, line in found.items() if len(path) <= 2} == expected
