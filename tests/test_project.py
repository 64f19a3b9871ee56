"""The files around the code: citation, hooks, issue forms, changelog."""

import datetime
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dig_jax

ROOT = Path(__file__).parents[1]
yaml = pytest.importorskip("yaml", reason="comes with mkdocs")


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_has_what_the_format_wants():
    """Required keys and types of the Citation File Format 1.2.0, guide to the schema."""
    found = read("CITATION.cff")
    assert found["cff-version"] == "1.2.0" and found["type"] == "software"
    for entry in (found, *found["references"]):
        assert isinstance(entry["title"], str) and entry["authors"]
        for author in entry["authors"]:
            assert set(author) == {"name"} or {"family-names", "given-names"} <= set(author)
    assert found["version"] == dig_jax.__version__
    assert isinstance(found.get("date-released", datetime.date.today()), datetime.date)
    licence = re.search(r'^license = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert found["license"] == licence[1]


def test_hooks_run_the_versions_that_ci_tests():
    pinned = (ROOT / "requirements.txt").read_text("utf-8").split()
    hooks = [hook for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {"ruff-check", "ruff-format", "nbstripout"} == {hook["id"] for hook in hooks}
    for hook in hooks:
        for needed in hook["additional_dependencies"]:
            assert needed in pinned or needed.startswith("nbstripout=="), needed


def test_issue_forms_are_complete():
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert {path.stem for path in forms} >= {"bug_report", "feature_request", "question"}
    for path in forms:
        form = read(path)
        if path.stem == "config":
            continue
        assert form["name"] and form["description"] and form["body"]
        ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert len(ids) == len(set(ids)) and all(part["attributes"] for part in form["body"])


def test_lines_of_the_changelog_are_short_and_begin_with_the_present_version():
    lines = (ROOT / "CHANGELOG.md").read_text("utf-8").splitlines()
    assert next(line for line in lines if line.startswith("## ")).split()[1] == dig_jax.__version__
    assert not [line for line in lines if len(line) > 100]


def test_the_picture_of_the_readme_marks_mistakes_in_red():
    picture = np.asarray(Image.open(ROOT / "docs/readings.png").convert("RGB")).astype(int)
    assert np.sum(picture[..., 0] - picture[..., 2] > 100) > 50
