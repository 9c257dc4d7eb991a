"""A Sphinx extension: the reference by public names, with tables from the declarations of the code.

Two directives write what would go stale by hand:

* `public` lists the names of a public module. `:from:` takes those only that are defined in the
  modules it names, in the order of their sources.
* `options` describes the options of links, servers and bridges.

A message class gets a table of the fields it declares. Each field, option and attribute of the
tables and lists is an object of its own in the index, so the search of the pages finds
`igtl.Image.size`. A public name that no page describes is a warning, and so is a field without a
meaning: `ci/docs` fails at both.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from enum import Enum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_overloads

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.errors import NoUri
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.nodes import make_id

import igtl
from igtl import options
from igtl._core import Slot
from igtl.codec.elements import Element
from igtl.fields import REQUIRED

LOG = logging.getLogger(__name__)
# public without a list of their names
PLAIN = ("igtl.options", "igtl.testing", "igtl.tools.relay")
_SECTION = re.compile(r"\s*(Args|Attributes|Returns|Raises|Yields):$")
_LITERAL = re.compile(r"(`[^`]*`)")
_ENTRY = re.compile(r"    (\w+(?:, \w+)*): (.*)$")
_NUMBERS = {"u": "uint", "i": "int", "f": "float"}
_UNITS = {
    r"\bmm\b": "mm",
    r"2\*{1,2}-32 s|2\\\*\\\*-32 s": "2⁻³² s",
    r"\b[Ss]econds\b": "s",
    r"\b[Mm]illiseconds\b|\bms\b": "ms",
    r"\b[Nn]anoseconds\b|\bns\b": "ns",
    r"\(i, j, k\)": "voxels",
    r"\bwidth, height\b": "pixels",
    r"^bytes\b": "bytes",
}


def names_of(module: ModuleType) -> list[str]:
    """Its public names: what it lists, or else what it defines."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", "") == module.__name__
    ]


@cache
def modules() -> dict[str, ModuleType]:
    """Every public module by the name under which programs use it: those that are public names
    themselves, and those with a list of names."""
    found = {"igtl": igtl}
    waiting = ["igtl"]
    while waiting:
        path = waiting.pop(0)
        for name in names_of(found[path]):
            value = getattr(found[path], name)
            if isinstance(value, ModuleType) and value not in found.values():
                found[f"{path}.{name}"] = value
                waiting.append(f"{path}.{name}")
    for info in pkgutil.walk_packages(igtl.__path__, "igtl."):
        if info.name.startswith("igtl.cli") or info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        parent = sys.modules[info.name.rpartition(".")[0]]
        listed = set(getattr(module, "__all__", ()))
        more = listed - set(getattr(parent, "__all__", ()))
        if (more or info.name in PLAIN) and module not in found.values():
            found[info.name] = module
    for path, module in found.items():
        sys.modules.setdefault(path, module)  # autodoc imports igtl.tls, which is igtl.session.tls
    return found


@cache
def public() -> dict[str, Any]:
    """Every public name, with what it is."""
    return {
        f"{path}.{name}": getattr(module, name)
        for path, module in modules().items()
        if path != "igtl.options"  # the directive `options` describes them
        for name in names_of(module)
    }


@cache
def homes() -> dict[str, str]:
    """Where a thing is described, by the name of the module that defines it."""
    found: dict[str, str] = {}
    for name, value in public().items():
        if _is_defined(value):
            found.setdefault(f"{value.__module__}.{value.__qualname__}", name)
    for name, value in vars(options).items():
        if name.endswith("Settings") and isinstance(value, type):
            found[f"igtl.options.{name}"] = f"igtl.options.{name.removesuffix('Settings')}Options"
    found["igtl.options.WaySettings"] = "igtl.options.BridgeOptions"
    return found


@cache
def fields() -> list[str]:
    """Every field of a message or element, and every option, by its full name."""
    found = [
        f"{name}.{field.name}"
        for name, value in public().items()
        if _is_declared(value) and _home(value) == name
        for field in value.__fields__
        if not field.hidden
    ]
    for cls in _option_classes():
        found += [f"igtl.options.{cls.__name__}.{name}" for name in _own_options(cls)]
    return found


def _is_declared(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, (igtl.Message, Element))


def _option_classes() -> list[Any]:
    return [
        value
        for value in vars(options).values()
        if isinstance(value, type)
        and issubclass(value, options.Options)
        and value is not options.Options
    ]


def _own_options(cls: Any) -> dict[str, str]:
    """The options that a class declares itself, with their types."""
    return {name: kind for name, kind in cls.__annotations__.items() if name in cls.known}


def _home(value: Any) -> str | None:
    return homes().get(f"{value.__module__}.{value.__qualname__}")


def _is_defined(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


# -- one public name


def entry(full: str, value: Any) -> list[str]:
    """The directive that describes a public name."""
    home = _home(value) if _is_defined(value) else full
    kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
    if home != full:
        return [*_described(full, kind), "", f"   The same as :py:obj:`{home}`.", ""]
    if inspect.isclass(value):
        return [f".. autoclass:: {full}", *_members(value), ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {full}", ""]
    if callable(value) and getattr(value, "__module__", "") == "igtl.testing":  # of pytest
        text = [f"   {line}" for line in plain((inspect.getdoc(value) or "").splitlines())]
        return [*_described(full, "function"), "", *text, ""]
    return [*_described(full, "data"), *_value(value), "", *_text_of(full, value), ""]


def _described(full: str, kind: str) -> list[str]:
    path, _, name = full.rpartition(".")
    return [f".. py:{kind}:: {name}", f"   :module: {path}"]


def _members(cls: type) -> list[str]:
    """The members of a class, and those of bases that no page describes."""
    described = {base.__name__ for base in cls.__mro__[1:] if _home(base) or not _ours(base)}
    lines = ["   :members:", f"   :inherited-members: {', '.join(sorted(described))}"]
    if issubclass(cls, Enum):
        lines.append("   :undoc-members:")
    return lines


def _ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "igtl" and cls.__module__ != "igtl._core"


def _value(value: Any) -> list[str]:
    text = repr(value)
    return [f"   :value: {text}"] if len(text) < 60 and " object at " not in text else []


def _text_of(full: str, value: Any) -> list[str]:
    """What the module that assigns a constant says of it."""
    path, _, name = full.rpartition(".")
    for module in [modules()[path], *sys.modules.values()]:
        source = getattr(module, "__file__", None) or ""
        ours = source.endswith(".py") and module.__name__.startswith("igtl")
        if ours and getattr(module, name, None) is value:
            found = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
            if ("", name) in found:
                return [f"   {line}" for line in plain(found["", name])]
    LOG.warning("%s: nothing says what it is", full)
    return []


class Public(SphinxDirective):
    """`.. public:: igtl.tls`: every name of a module, or a part of them."""

    required_arguments = 1
    option_spec = {"from": directives.unchanged, "only": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        path = self.arguments[0]
        module = modules()[path]
        lines: list[str] = []
        names = names_of(module)
        if "only" in self.options:
            names = self.options["only"].split()
        elif "from" in self.options:
            origins = self.options["from"].split()
            values = [getattr(module, name) for name in names]
            values = [value for value in values if getattr(value, "__module__", "") in origins]
            values.sort(key=lambda value: (origins.index(value.__module__), _line_of(value)))
            names = [value.__name__ for value in values]
        else:
            lines += [f".. automodule:: {path}", "   :no-members:", ""]
        for name in names:
            value = getattr(module, name)
            if isinstance(value, ModuleType):
                continue  # has a section of its own
            lines += entry(f"{path}.{name}", value)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _line_of(value: Any) -> int:
    try:
        return inspect.getsourcelines(value)[1]
    except (TypeError, OSError):
        return 0


# -- docstrings


def plain(lines: list[str]) -> list[str]:
    """Our docstrings are plain text with `code`, indented code, lists and tables: that, as
    reStructuredText."""
    out: list[str] = []
    literal: int | None = None  # of the code block that we are in: how deep the line before it was
    rows: list[list[str]] = []
    for number, line in enumerate(lines):
        deep = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and deep <= literal:
            literal = None
        if literal is None:
            if line.startswith("|"):
                if not line.startswith("|--"):
                    rows.append([_escaped(cell.strip()) for cell in line.strip("|").split("|")])
                continue
            if rows:
                out += table(rows[0], rows[1:], "plain")
                rows = []
            rest = lines[number + 1 : number + 3]
            follows = len(rest) == 2 and not rest[0].strip() and rest[1][: deep + 4].isspace()
            section = _SECTION.match(line)
            line = _escaped(line)
            if line.strip() and follows and rest[1].strip() and not section:
                literal = deep
                if line.endswith(":"):
                    line += ":"
                else:
                    out += [line, ""]
                    line = " " * deep + "::"
        out.append(line)
    return out


def _escaped(line: str) -> str:
    """Without what reStructuredText would take for its own; a section of the protocol is a link."""
    parts = _LITERAL.split(line)
    for number, part in enumerate(parts):
        if not part.startswith("`"):
            part = (
                re.sub(r"(?<!^)([*|])", r"\\\1", part)
                if number == 0
                else re.sub(r"([*|])", r"\\\1", part)
            )
            parts[number] = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", part)  # STT_ is no reference
    return re.sub(r"(?:docs/)?protocol\.md (?:section )?(\d+(?:\.\d+)?)", _section, "".join(parts))


def _section(found: re.Match[str]) -> str:
    return f"`protocol {found[1]} <../protocol.html#{_anchors()[found[1]]}>`__"


@cache
def _anchors() -> dict[str, str]:
    """The anchors of the sections of docs/protocol.md, by number."""
    text = (Path(__file__).parent / "protocol.md").read_text()
    heads = re.findall(r"^#+ ((\d+(?:\.\d+)?)\.? .*)$", text, re.MULTILINE)
    return {number: nodes.make_id(title) for title, number in heads}


def plain_text(app: Any, what: str, name: str, obj: Any, _: Any, lines: list[str]) -> None:
    """A docstring that autodoc has found."""
    lines[:] = plain(lines)
    if what in ("attribute", "property"):
        lines.insert(0, "")  # or napoleon takes what is before a colon for a type


# -- tables


def table(head: list[str], rows: list[list[str]], name: str) -> list[str]:
    """A table as reStructuredText."""
    lines = ["", ".. list-table::", "   :header-rows: 1", f"   :class: {name}", ""]
    for row in [head, *rows]:
        for number, cell in enumerate(row):
            lines.append(f"   {'*' if number == 0 else ' '} - {cell}".rstrip())
    return [*lines, ""]


def said(lines: list[str], names: set[str]) -> dict[str, str]:
    """Takes the entries of these names out of the sections of a docstring, and returns them."""
    found: dict[str, str] = {}
    kept: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        match = _ENTRY.match(line)
        if match and set(match[1].split(", ")) <= names:
            text = [match[2]]
            while number + 1 < len(lines) and lines[number + 1].startswith("     "):
                number += 1
                text.append(lines[number].strip())
            for name in match[1].split(", "):
                found[name] = " ".join(text)
        else:
            kept.append(line)
        number += 1
    bare = [
        line
        for number, line in enumerate(kept)
        if not (_SECTION.match(line) and not "".join(kept[number + 1 : number + 2]).strip())
    ]
    lines[:] = bare
    return found


def unit_of(name: str, meaning: str) -> str:
    """The unit that a name ends with, or a text names."""
    ends = next((unit for unit in ("ms", "ns", "bytes") if name.endswith(f"_{unit}")), "")
    return ends or next((unit for word, unit in _UNITS.items() if re.search(word, meaning)), "")


def form_of(field: Any, cls: type) -> tuple[str, str]:
    """Type and shape of a field, as a user sees them."""
    kind, width = field.scalar[:1], field.scalar[1:]
    number = f"{_NUMBERS[kind]}{8 * int(width)}" if kind else ""
    match field.kind:
        case "int" | "float":
            return (f"{number} or None" if field.optional or field.default is None else number), ""
        case "matrix":
            return "float32", "(4, 4)"
        case "array" if isinstance(field.count, tuple):
            return number, " or ".join(f"({n},)" for n in field.count)
        case "array":
            count = field.count if isinstance(field.count, int) else "n"
            return number, f"({count}, {field.per})" if field.per else f"({count},)"
        case "text":
            return f"str, at most {field.size} bytes", ""
        case "texts":
            return f"list of str, at most {field.size} bytes each", "n"
        case "string" | "zero_ended":
            return "str", ""
        case "data":
            return "bytes", ""
        case "elements":
            return f"list of :py:class:`~igtl.{field.item.__name__}`", "n"
    hints: dict[str, str] = {}
    for base in cls.__mro__:
        hints = getattr(base, "__annotations__", {}) | hints
    named = hints.get(field.name, "")
    return {"Array": "array", "CellList": ":py:class:`~igtl.Cells`"}.get(named, f"``{named}``"), ""


def shown(value: Any) -> str:
    """A default, as one writes it."""
    if value is REQUIRED or value is inspect.Parameter.empty:
        return "required"
    if isinstance(value, Enum):
        return f"``{type(value).__name__}.{value.name}``"
    if value == () and not isinstance(value, str):
        return "empty"
    if isinstance(value, int) and value >= 1 << 20:
        return f"{value >> 20:,} MiB"
    return f"``{value!r}``"


def field_table(app: Any, what: str, name: str, obj: Any, _: Any, lines: list[str]) -> None:
    """The fields of a message, out of its declaration, in place of their part of the docstring."""
    if what != "class" or not _is_declared(obj):
        return
    declared = [field for field in obj.__fields__ if not field.hidden]
    told: dict[str, str] = {}
    for base in reversed(obj.__mro__[1:]):
        if issubclass(base, (igtl.Message, Element)) and getattr(base, "__fields__", ()):
            above = plain((inspect.getdoc(base) or "").splitlines())
            told |= said(above, {field.name for field in declared})
    told |= said(lines, {field.name for field in declared})
    rows = []
    parameters = inspect.signature(obj).parameters if "__init__" in vars(obj) else None
    for field in declared:
        meaning = told.get(field.name, "")
        if not meaning:
            LOG.warning("%s: nothing says what its field %s means", name, field.name)
        kind, shape = form_of(field, obj)
        default = (
            "identity" if field.kind == "matrix" and field.default is None else shown(field.default)
        )
        if parameters is not None:
            given = parameters.get(field.name)
            default = "–" if given is None else shown(given.default)
        member = f":member:`{name}.{field.name}`"
        rows.append([member, kind, unit_of(field.name, meaning), shape, default, meaning])
    at = next((n for n, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    if rows:
        heads = ["field", "type", "unit", "shape", "default", "meaning"]
        about = table(heads, rows, "fields")
        if parameters is None:
            lines[at:at] = about
        else:  # what it is made of is described before what it sends
            lines += ["", "The fields as they travel:", *about]
    if issubclass(obj, igtl.Message) and obj.type_name:
        lines[at:at] = ["", f"Type on the wire: ``{obj.type_name}``.", ""]


def attribute_list(app: Any, what: str, name: str, obj: Any, _: Any, lines: list[str]) -> None:
    """The attributes that a docstring lists, each in the index unless it is described below too."""
    if what not in ("class", "exception") or "Attributes:" not in lines:
        return
    at = lines.index("Attributes:")
    lines[at : at + 1] = ["", ":Attributes:"]
    for number in range(at + 2, len(lines)):
        line = lines[number]
        if line and not line.startswith(" "):
            break
        if match := _ENTRY.match(line):
            heads = [
                f"``{one}``" if _has_entry(obj, one) else f":member:`{name}.{one}`"
                for one in match[1].split(", ")
            ]
            lines[number] = f"    * {', '.join(heads)} -- {match[2]}"
        elif line.strip():  # of an entry: below its text
            lines[number] = f"      {line.strip()}"


def _has_entry(cls: type, name: str) -> bool:
    """Whether autodoc describes this member: it is a property or a method with a docstring."""
    member = inspect.getattr_static(cls, name, None)
    return bool((inspect.isroutine(member) or inspect.isdatadescriptor(member)) and member.__doc__)


class Member(SphinxRole):
    """`:member:`igtl.Image.size``: the name of an attribute, and the place that describes it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        owner, _, name = self.text.rpartition(".")
        place = make_id(self.env, self.inliner.document, "", self.text)
        self.env.get_domain("py").note_object(  # type: ignore[attr-defined]
            self.text, "attribute", place, location=self.get_location()
        )
        head = f"{name} ({owner.removeprefix('igtl.options.')} attribute)"
        shown = nodes.literal("", name, ids=[place])
        return [addnodes.index(entries=[("single", head, place, "", None)]), shown], []


def skip_fields(app: Any, what: str, name: str, obj: Any, skip: bool, _: Any) -> bool | None:
    """The fields of a message are in its table."""
    return True if isinstance(obj, Slot) else None


class OptionTables(SphinxDirective):
    """`.. options::`: every class of options, with what takes it."""

    def run(self) -> list[nodes.Node]:
        classes = _option_classes()
        rows = [
            [", ".join(f":py:obj:`{name}`" for name in names), f":py:obj:`~igtl.options.{kind}`"]
            for kind, names in _takers().items()
        ]
        lines = [".. py:module:: igtl.options", ""]
        lines += table(["what takes options", "which"], rows, "takers")
        for cls in classes:
            lines += self._of(cls, classes)
        return self.parse_text_to_nodes("\n".join(lines))

    def _of(self, cls: Any, classes: list[Any]) -> list[str]:
        text = plain((inspect.getdoc(cls) or "").splitlines())
        kinds = _own_options(cls)
        above = {name for base in cls.__bases__ if base in classes for name in base.known}
        told = said(text, set(kinds))
        if takers := _takers().get(cls.__name__):
            text += ["", f"Taken by {', '.join(f':py:obj:`{name}`' for name in takers)}."]
        bases = [f":py:obj:`~igtl.options.{b.__name__}`" for b in cls.__bases__ if b in classes]
        if bases:
            text += ["", f"It has the options of {' and '.join(bases)} too."]
        rows = []
        for name, kind in kinds.items():
            meaning = told.get(name, "")
            if name in above:
                meaning = "as above, with another default"
            elif not meaning:
                LOG.warning("igtl.options.%s: nothing says what %s means", cls.__name__, name)
            default = shown(cls.known[name].default)
            member = f":member:`igtl.options.{cls.__name__}.{name}`"
            row = [member, f"``{kind.replace('|', 'or')}``", unit_of(name, meaning)]
            rows.append([*row, default, meaning])
        if rows:
            text += table(["option", "type", "unit", "default", "meaning"], rows, "fields")
        return [f".. py:class:: {cls.__name__}", "", *(f"   {line}" for line in text), ""]


@cache
def _takers() -> dict[str, list[str]]:
    """The public functions and classes that take the options of a class, by its name."""
    found: dict[str, list[str]] = {}
    for name, value in public().items():
        if not _is_defined(value) or _home(value) != name:
            continue
        called = value.__init__ if inspect.isclass(value) else value
        for call in [called, *(get_overloads(called) if inspect.isfunction(called) else ())]:
            hints = str(getattr(call, "__annotations__", {}))
            for kind in re.findall(r"Unpack\[(\w+)Settings\]", hints):
                takers = found.setdefault(f"{kind}Options", [])
                if name not in takers:
                    takers.append(name)
    return found


# -- references


def short_aliases(app: Any, what: str, name: str, obj: Any, _: Any, *parts: str | None) -> Any:
    """`ArrayLike | None`, where autodoc writes how it stands for the alias."""
    return tuple(part and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", part) for part in parts)


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """A type in a signature leads to its public name, wherever it is defined."""
    if node.get("refdomain") != "py":
        return None
    home = homes().get(node["reftarget"])
    if home is None:
        return None
    domain = env.get_domain("py")
    try:
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, contnode)
    except NoUri:
        return None


def complete(app: Any, env: Any) -> None:
    """Every public name is on a page, with its fields."""
    described = set(env.get_domain("py").objects)
    for name in [*public(), *modules(), *fields()]:
        if name not in described:
            LOG.warning("%s: no page describes it", name)


def setup(app: Any) -> dict[str, bool]:
    modules()
    app.add_directive("public", Public)
    app.add_directive("options", OptionTables)
    app.add_role("member", Member())
    app.connect("autodoc-process-docstring", plain_text, priority=100)
    app.connect("autodoc-process-docstring", field_table, priority=200)
    app.connect("autodoc-process-docstring", attribute_list, priority=300)  # all before napoleon
    app.connect("autodoc-process-signature", short_aliases)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("missing-reference", resolve)
    app.connect("env-check-consistency", complete)
    return {"parallel_read_safe": False}
