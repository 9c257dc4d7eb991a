"""Sphinx: `ci/docs` builds these pages and fails at a warning."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import igtl

project = "igtl"
author = "The igtl developers"
copyright = "The igtl developers"
version = release = igtl.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
html_theme = "furo"
html_title = f"igtl {release}"
exclude_patterns = ["_build"]
default_role = "code"  # docstrings say `name`
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]  # Link and igtl.aio's Link have names in common

_SECTION = re.compile(r"^\s*(Args|Attributes|Returns|Raises|Yields):")
_LITERAL = re.compile(r"(`[^`]*`)")


def plain_text(app, what, name, obj, options, lines):
    """Our docstrings are plain text with `code` and indented code: make that reStructuredText."""
    out, literal = [], None  # of the code block that we are in: how deep the line before it was
    for number, line in enumerate(lines):
        deep = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and deep <= literal:
            literal = None
        if literal is None:
            line = "".join(
                part
                if part.startswith("`")
                else re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", _escaped(part))
                for part in _LITERAL.split(line)
            )
            rest = lines[number + 1 : number + 3]
            follows = len(rest) == 2 and not rest[0].strip() and rest[1][: deep + 4].isspace()
            if line.strip() and follows and rest[1].strip() and not _SECTION.match(line):
                literal = deep
                if line.endswith(":"):
                    line += ":"
                else:
                    out += [line, ""]
                    line = " " * deep + "::"
        out.append(line)
    lines[:] = out


def _escaped(text):
    text = re.sub(r"([*|])", r"\\\1", text)
    return re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", text)  # STT_ is no reference


def plain_help(app, ctx, lines):
    """The help of a command is plain text too."""
    lines[:] = [re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", line) for line in lines]


def setup(app):
    for part in ("description", "options"):
        app.connect(f"sphinx-click-process-{part}", plain_help)
    app.connect("autodoc-process-docstring", plain_text, priority=100)  # before napoleon
