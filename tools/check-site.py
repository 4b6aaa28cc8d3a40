#!/usr/bin/env python3
"""Check the links of the built documentation: every page and every anchor that is linked to exists.

    tools/check-site.py [FOLDER]        by default docs/_build/html

Sphinx itself warns of pages and labels that do not exist; this also sees links from docstrings,
from tables and from what the theme writes, and anchors.  Links to other hosts are not followed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["Page", "broken_links", "pages_of"]

SITE = Path(__file__).parents[1] / "docs" / "_build" / "html"


class Page(HTMLParser):
    """The links and anchors of a page.

    Attributes:
        links: What is linked to, and what is shown or loaded.
        anchors: The ids on the page.
        without_text: Images that say nothing to those who do not see them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.without_text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag says."""
        found = dict(attrs)
        if identifier := found.get("id"):
            self.anchors.add(identifier)
        for key in ("href", "src"):
            if (target := found.get(key)) is not None:
                self.links.add(target)
        if tag == "img" and not found.get("alt"):
            self.without_text.append(found.get("src") or "")


def pages_of(site: Path) -> dict[Path, Page]:
    """Read all pages."""
    found: dict[Path, Page] = {}
    for path in sorted(site.rglob("*.html")):
        page = found[path.resolve()] = Page()
        page.feed(path.read_text(encoding="utf-8"))
    return found


def broken_links(site: Path) -> list[str]:
    """Return what is wrong, a sentence each."""
    pages = pages_of(site)
    wrong: list[str] = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        wrong += [f"{name}: the image {image} has no text" for image in page.without_text]
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if parts.scheme not in ("https", "mailto", "data"):
                    wrong.append(f"{name}: {link} is not https")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                wrong.append(f"{name}: {link} leads nowhere")
            elif (
                parts.fragment
                and target in pages
                and (unquote(parts.fragment) not in pages[target].anchors)
            ):
                wrong.append(f"{name}: {link} has no such anchor")
    return wrong


def main() -> None:
    """Check, and print what is wrong."""
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else SITE
    wrong = broken_links(site)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
