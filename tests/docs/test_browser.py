"""The documentation in a real browser: a reader finds, follows and sees things."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.browser import Browser, browser, is_there, processes_of

pytestmark = [
    pytest.mark.xdist_group("site"),
    pytest.mark.timeout(180),
    pytest.mark.skipif(not is_there(), reason="chromium and chromedriver are not installed"),
]

NARROW, WIDE = 390, 1440

TOO_WIDE = """
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    return [...document.querySelectorAll('article *')]
        .filter(e => e.getBoundingClientRect().right > width + 1)
        .filter(e => !e.closest('.table-wrapper, pre, .highlight'))
        .slice(0, 5).map(e => e.tagName + ': ' + e.textContent.trim().slice(0, 60));
"""
CONTRAST = """
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgb = colour => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return canvas.getImageData(0, 0, 1, 1).data;
    };
    const light = colour => [...rgb(colour)].slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = e => {
        for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (rgb(colour)[3] === 255) return colour;
        }
        return 'white';
    };
    const found = {ground: light(ground(document.querySelector('article'))), worst: 99, text: ''};
    for (const e of document.querySelectorAll('article :is(p, code, a, td, h1)')) {
        if (!e.textContent.trim()) continue;
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < found.worst) { found.worst = ratio; found.text = e.outerHTML.slice(0, 120); }
    }
    return found;
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (so it is called)
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the documentation is served."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """A browser."""
    with browser() as window:
        yield window


def test_every_page_opens_without_a_complaint_and_fits_a_telephone(
    window: Browser, address: str, site: Path
) -> None:
    window.look(width=NARROW)
    window.complaints()
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert len(pages) > 40
    wrong: dict[str, object] = {}
    for page in pages:
        window.open(f"{address}/{page}")
        if page.startswith("_") or page in ("genindex.html", "py-modindex.html"):
            continue
        found = window.complaints() + window.run(TOO_WIDE)
        if found:
            wrong[page] = found
    assert wrong == {}


def test_search_finds_a_name_and_leads_to_it(window: Browser, address: str) -> None:
    window.look(width=WIDE)
    window.open(f"{address}/index.html")
    window.run("""
        const field = document.querySelector('.sidebar-search');
        field.value = 'greylist';
        field.form.submit();
    """)
    found = window.wait_for("""
        const links = [...document.querySelectorAll('#search-results li a')];
        return links.length && links.map(link => link.href);
    """)
    assert any("howto/greylist.html" in link for link in found)
    window.run("document.querySelector('#search-results li a[href*=greylist]').click()")
    assert window.wait_for("return document.querySelector('h1')?.textContent.includes('Greylist')")
    assert window.complaints() == []


def test_the_links_of_the_tutorial_can_be_followed(window: Browser, address: str) -> None:
    window.look(width=WIDE)
    window.open(f"{address}/index.html")
    window.run("document.querySelector('article a[href^=tutorial]').click()")
    window.wait_for("return location.pathname.includes('/tutorial/')")
    window.wait_for("return document.readyState == 'complete'")
    links = window.run("""
        return [...document.querySelectorAll('article a.reference.internal')].map(a => a.href);
    """)
    assert len(links) > 8
    for link in dict.fromkeys(links):
        window.open(link)
        seen = window.run("""
            const anchor = decodeURIComponent(location.hash.slice(1));
            return {
                title: document.querySelector('article h1')?.textContent,
                there: !anchor || document.getElementById(anchor) !== null,
            };
        """)
        assert seen["title"], link
        assert seen["there"], link
    assert window.complaints() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("page", ["index", "explanation/protocol", "reference/milters"])
def test_text_can_be_read(window: Browser, address: str, page: str, width: int, dark: bool) -> None:
    window.look(width=width, dark=dark)
    window.open(f"{address}/{page}.html")
    found = window.run(CONTRAST)
    assert (found["ground"] < 0.1) is dark
    assert found["worst"] > 4.5, found["text"]
    broken = "return [...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
    assert window.run(broken) == []


def test_the_theme_can_be_changed_by_its_button(window: Browser, address: str) -> None:
    window.look(width=WIDE)
    window.open(f"{address}/index.html")
    themes = window.run("""
        const seen = [];
        for (let i = 0; i < 3; i++) {
            document.querySelector('button.theme-toggle').click();
            seen.push(document.body.dataset.theme);
        }
        return seen;
    """)
    assert sorted(themes) == ["auto", "dark", "light"]


def test_nothing_is_left_of_a_browser() -> None:
    with browser() as window:
        profile = window.profile
        assert processes_of(profile)
    assert processes_of(profile) == []
    assert not Path(profile).parent.exists()
