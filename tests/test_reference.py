"""The reference: a build of the pages has every public name in its index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "docs" / "conf.py").is_file():
    pytest.skip("installed without the documents", allow_module_level=True)
for module in ("sphinx", "sphinx_click", "myst_parser", "furo"):
    pytest.importorskip(module, reason="the pages need the extra docs")


def test_public_names() -> None:
    """What the reference takes for public is what programs import."""
    from docs.api import public

    names = public()
    for name in ("igtl.Transform", "igtl.aio.connect", "igtl.tls.client", "igtl.udp.Sender",
                 "igtl.plus.connect", "igtl.slicer.aio.serve", "igtl.gateway.load",
                 "igtl.files.meshes.from_vtk", "igtl.peers.pyigtl.OpenIGTLinkClient"):  # fmt: skip
        assert name in names
    assert not [name for name in names if "._" in name]


def test_fields() -> None:
    """Fields of messages and elements, and options, have names of their own in the index."""
    from docs.api import fields

    names = fields()
    for name in ("igtl.Transform.matrix", "igtl.Image.scalar_type", "igtl.Tool.matrix",
                 "igtl.options.LinkOptions.read_timeout"):  # fmt: skip
        assert name in names
    assert len(names) == len(set(names))
    assert not [name for name in names if "._" in name]


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.timeout(1200)
def test_index(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", ROOT / "docs", tmp_path],
        check=True, cwd=ROOT, timeout=1100,
    )  # fmt: skip
    from docs.pages import broken_links, missing_names

    assert missing_names(tmp_path) == []
    assert broken_links(tmp_path) == []
