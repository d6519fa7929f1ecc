"""The documentation builds without a warning, and its pages ask nothing of the network."""

import html.parser
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

for library in ("mkdocs", "material", "mkdocstrings", "nbconvert"):
    pytest.importorskip(library)
ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(html.parser.HTMLParser):
    """The addresses that a browser loads by itself, and those of links."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.links, self.names = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.names |= {own[name] for name in ("id", "name") if own.get(name)}
        if tag == "a" and own.get("href"):
            self.links.append(own["href"])
        elif tag == "link" and own.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(own.get("href") or "")
        elif own.get("src"):
            self.loaded.append(own["src"])


def pages(site):
    return {path: Loaded(path.read_text()) for path in sorted(site.rglob("*.html"))}


def test_no_page_loads_anything_from_outside(site):
    found = pages(site)
    assert len(found) > 20
    for path, page in found.items():
        assert len(page.loaded) > 3
        assert [address for address in page.loaded if urlsplit(address).scheme not in ("", "data")] == [], path.name
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", path.read_text()), path.name


def test_every_link_within_the_site_leads_somewhere(site):
    found = pages(site)
    for path, page in found.items():
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if parts.scheme or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name} links to {address}"
            if parts.fragment and target in found and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in found[target].names, f"{path.name} links to {address}"


def test_what_is_made_is_there(site):
    decisions = (site / "decisions.html").read_text()
    assert "0/0 = 0" in decisions and "coupling.counting.effective_parameter_count" in decisions
    assert "<!-- decisions -->" not in decisions
    assert "measure" in (site / "api" / "measuring.html").read_text()
    notebook = (site / "notebooks" / "measure-timm.html").read_text()
    assert "VisionTransformer" in notebook and "<img" in notebook
    assert not list(site.rglob("*.py")) and not list(site.rglob("*.ipynb"))
