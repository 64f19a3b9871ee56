"""The documentation site builds strictly: no dead link or anchor, no page that nobody reaches."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(folder of the site, what mkdocs said)."""
    pytest.importorskip("mkdocs", reason="pip install 'dig_jax[docs]'")
    pytest.importorskip("material", reason="pip install 'dig_jax[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


@pytest.mark.slow
def test_the_site_builds_without_a_warning(built):
    assert "WARNING" not in built[1]


@pytest.mark.slow
def test_every_page_of_docs_is_reached_from_the_navigation(built):
    start = (built[0] / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("**/*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert f'href="{name}"' in start, f"{page.name}: add it to nav in mkdocs.yml"


@pytest.mark.slow
def test_the_api_page_shows_the_public_surface(built):
    page = (built[0] / "api.html").read_text(encoding="utf-8")
    for name in ("load_reader", "load_encoder", "Reading", "Character", "info_nce", "Method"):
        assert re.search(rf'id="dig_jax\.[\w.]*\b{name}"', page), name
    assert "work folder or export" in page or "recogniser" in page  # docstrings, too


@pytest.mark.slow
def test_pages_fetch_nothing_from_elsewhere(built):
    for page in built[0].glob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r'(?:src|(?<=stylesheet" )href)="(https?://[^"]+)"', text)
        assert not fetched, (page.name, fetched)
