"""Looks at the built pages: what a reader, a browser and a phone find there.

`python -m docs.pages`, from the folder of the project, after `ci/docs` has built them.

* Every public name, with the fields of messages and the options, is in `objects.inv`, the index
  in which the search of the pages and other projects look.
* Every link within the pages leads to a place that exists.
* With Chromium: no page is wider than the window of a desktop or a phone, and pictures of some
  pages at both sizes are in build/docs-screens.
"""

from __future__ import annotations

import os
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from sphinx.util.inventory import InventoryFile

from docs.api import fields, modules, public

PAGES = Path("build/docs")
SCREENS = Path("build/docs-screens")
SIZES = (("desktop", "light", 1280, 900), ("phone", "dark", 390, 844))
SHOWN = (
    "index", "start", "install", "deployment", "protocol-explained", "guide/images", "links",
    "view", "bridge", "gateway", "reference/messages", "reference/options", "reference/links",
    "migrating-from-cpp", "compatibility", "performance",
)  # fmt: skip
# what of an article lies beyond the edge of the window, and not in a part that scrolls by itself
WIDER = """() => {
    const article = document.querySelector('article');
    const scrolls = e => e !== article && (
        ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    return [...article.querySelectorAll('*')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e.parentElement))
        .map(e => `${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 50)}`);
}"""


def missing_names(pages: Path) -> list[str]:
    """Public names and fields that the index does not have."""
    with (pages / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", os.path.join)
    known = {name for kind, names in inventory.items() if kind[:3] == "py:" for name in names}
    return [name for name in [*modules(), *public(), *fields()] if name not in known]


class Page(HTMLParser):
    """The anchors and links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if name in ("href", "src", "srcset") and value and "://" not in value:
                self.links.add(value)


def broken_links(folder: Path) -> list[str]:
    """Links of the pages that lead nowhere."""
    pages = {path.resolve(): Page(path) for path in folder.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in sorted(page.links):
            target, _, anchor = unquote(link.partition("?")[0]).partition("#")
            place = (path.parent / target).resolve() if target else path
            if link.startswith(("mailto:", "data:")):
                continue
            there = place.exists() and (
                not anchor or place not in pages or anchor in pages[place].anchors
            )
            if not there:
                found.append(f"{path.relative_to(folder.resolve())}: {link}")
    return found


def looked_at() -> list[str]:
    """Takes the pictures, and returns what is wider than a window."""
    from tests.browser import opened

    found = []
    shutil.rmtree(SCREENS, ignore_errors=True)
    SCREENS.mkdir(parents=True)
    with opened() as browser:
        for size, scheme, width, height in SIZES:
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            for path in sorted(PAGES.rglob("*.html")):
                name = str(path.relative_to(PAGES).with_suffix(""))
                page.goto(path.resolve().as_uri())
                found += [f"{size}: {name}: {each}" for each in page.evaluate(WIDER)]
                if name in SHOWN:
                    picture = SCREENS / f"{name.replace('/', '-')}-{size}.png"
                    page.screenshot(path=picture, full_page=size == "phone")
    print(f"{SCREENS}: {len(list(SCREENS.iterdir()))} pictures")
    return found


def main() -> int:
    wrong = [f"not in objects.inv: {name}" for name in missing_names(PAGES)]
    wrong += [f"leads nowhere: {link}" for link in broken_links(PAGES)]
    try:
        import playwright  # noqa: F401

        from tests.browser import program
    except ImportError as error:
        reason = str(error)
    else:
        reason = "" if program() else "Chromium is not installed"
    if reason:
        print(f"No page was looked at in a browser: {reason}")
    else:
        wrong += [f"wider than the window: {each}" for each in looked_at()]
    print(*wrong, sep="\n")
    print(f"{len(public())} public names, {len(fields())} fields; {len(wrong)} faults")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
