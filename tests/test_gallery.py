"""The gallery of the examples names each, as it is now, with a picture of what it prints."""

from __future__ import annotations

import re

import pytest

from tests.test_examples import NAMES

pytest.importorskip("docs.gallery_pictures", reason="installed without the documents")
from docs import gallery_pictures as gallery


def test_the_gallery_names_every_example() -> None:
    assert set(gallery.names()) == set(NAMES)
    text = gallery.PAGE.read_text()
    assert text == gallery.page(), "python -m docs.gallery_pictures"
    assert re.findall(r"^## (\w+)\.py$", text, re.MULTILINE) == gallery.names()


def test_each_has_the_picture_of_its_run_and_there_are_no_others() -> None:
    pictures = {f"{name}.svg" for name in NAMES} | {f"{name}.png" for name in gallery.PICTURES}
    files = list(gallery.FOLDER.iterdir())
    assert {path.name for path in files} == pictures
    assert sum(path.stat().st_size for path in files) < 1 << 20
    for name in NAMES:
        shown = (gallery.FOLDER / f"{name}.svg").read_text().replace("&#160;", " ")
        assert f"$ {gallery.command(name)}<" in shown
        assert "@font-face" not in shown
        assert "Traceback" not in shown
