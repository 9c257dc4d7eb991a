"""Sphinx: `ci/docs` builds these pages and fails at a warning."""

import re
import sys
from pathlib import Path

from docutils import nodes

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
import igtl  # noqa: E402

project = "igtl"
author = "The igtl developers"
copyright = "The igtl developers"
version = release = igtl.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "api"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["igtl.css"]
html_extra_path = ["demo.svg", "demo-narrow.svg"]  # start.md chooses between them by the width
html_title = f"igtl {release}"
exclude_patterns = ["_build"]
default_role = "code"  # docstrings say `name`
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
autodoc_type_aliases = {"npt.ArrayLike": "ArrayLike"}  # spelt out it is three lines
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
napoleon_custom_sections = [("Attributes", "params_style")]
UNIT = re.compile(r"(?<=\d) (?=(?:ns|µs|ms|s|Hz|kHz|[KMG]i?B|bytes|mm|%)\b|%)")
suppress_warnings = ["ref.python"]  # Link and igtl.aio's Link have names in common


def plain_help(app, ctx, lines):
    """The help of a command is plain text too."""
    lines[:] = [re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", line) for line in lines]


def together(app, doctree, page):
    """A number is not parted from its unit, not even in a narrow column."""
    for text in list(doctree.findall(nodes.Text)):
        if not isinstance(text.parent, (nodes.literal, nodes.literal_block)):
            joined = UNIT.sub("\u00a0", text)
            if joined != text:
                text.parent.replace(text, nodes.Text(joined))


def setup(app):
    app.connect("doctree-resolved", together)
    for part in ("description", "options"):
        app.connect(f"sphinx-click-process-{part}", plain_help)
