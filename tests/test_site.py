"""The built site (`make docs`): its pages in a browser, the search, a page for each name."""

import functools
import re
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chromium import Browser, chromium

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "html"
sys.path.append(str(ROOT / "docs" / "_ext"))

from names import public  # noqa: E402

MADE_BY_SPHINX = {"genindex.html", "search.html", "py-modindex.html"}


def test_the_reference_lists_each_public_name_once() -> None:
    """By its job, in the pages of `docs/reference`; `docs/_ext/names.py` says what is public."""
    listed = []
    for page in (ROOT / "docs" / "reference").glob("*.rst"):
        module = "ppl_vae"
        for line in page.read_text().splitlines():
            if found := re.match(r"\.\. currentmodule:: (\S+)", line):
                module = found[1]
            elif found := re.fullmatch(r"   (~?)([\w.]+)", line):
                name = found[2] if found[1] else f"{module}.{found[2]}"
                listed += [name] if page.stem != "index" else []
    assert sorted(listed) == sorted(public())


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """The pages of the built site by their paths in it."""
    if not (SITE / "index.html").exists():
        pytest.skip(f"no site in {SITE}: run `make docs` first")
    return sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html"))


def test_a_page_for_each_public_name_and_for_no_other(pages: list[str]) -> None:
    names = {Path(page).stem for page in pages if page.startswith("reference/names/")}
    assert names == set(public())


def test_every_page_is_reached_by_links_from_the_first(pages: list[str]) -> None:
    known, new = {"index.html"}, ["index.html"]
    while new:
        page = SITE / new.pop()
        for target in re.findall(r'href="([^"#:]+)(?:#[^"]*)?"', page.read_text()):
            path = (page.parent / target).resolve()
            if path.suffix == ".html" and path.is_relative_to(SITE):
                assert path.exists(), f"{page}: {target}"
                name = str(path.relative_to(SITE))
                new += [name] if name not in known else []
                known.add(name)
    assert set(pages) - known <= MADE_BY_SPHINX


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/favicon.ico":  # which a browser asks for, whatever the page says
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(pages: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def faults(browser: Browser, served: str) -> list[str]:
    """What the page has complained of, and what it asked of others."""
    entries = [e["entry"] for e in browser.seen("Log.entryAdded")]
    logged = [f"{e['text']} {e.get('url', '')}" for e in entries]
    logged += [str(e["args"]) for e in browser.seen("Runtime.consoleAPICalled")]
    thrown = [e["exceptionDetails"]["text"] for e in browser.seen("Runtime.exceptionThrown")]
    asked = [e["request"]["url"] for e in browser.seen("Network.requestWillBeSent")]
    return [*logged, *thrown, *(u for u in asked if not u.startswith((served, "data:")))]


def test_pages_are_shown_without_a_fault(browser: Browser, served: str, pages: list[str]) -> None:
    """All but the reference's, of which one of each kind: they come of three templates."""
    kinds = ("InfoVAE", "training.fit", "NotFinite", "STYLE")
    shown = [p for p in pages if "reference/names/" not in p or p[:-5].endswith(kinds)]
    assert len(shown) > 40
    for width in (1280, 390):
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        for page in shown:
            browser.open(served + page)
            assert not faults(browser, served), page
            wide = browser.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{page} is {wide} wide on a screen of {width}"


def test_pictures_have_size(browser: Browser, served: str, pages: list[str]) -> None:
    script = "[...document.querySelectorAll('article img')].map(i => [i.src, i.naturalWidth])"
    seen = 0
    for page in (p for p in pages if "<img" in (SITE / p).read_text()):
        for source, width in browser.open(served + page).evaluate(script):
            assert width > 50, f"{page}: {source}"
            seen += 1
    assert seen > 10


def test_search_finds_mmd(browser: Browser, served: str) -> None:
    browser.open(served + "search.html?q=MMD")
    wait = """new Promise(done => {
        const look = n => {
            const links = [...document.querySelectorAll('ul.search li a')].map(a => a.href);
            const ends = document.querySelector('.search-summary')?.textContent.includes('found');
            if ((ends && links.length) || n > 200) done(links); else setTimeout(look, 50, n + 1);
        };
        look(0);
    })"""
    links = browser.evaluate(wait)
    assert any("ppl_vae.objectives.MMD.html" in link for link in links), links
    assert not faults(browser, served)
