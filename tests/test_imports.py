"""Who may import whom: the layers of the design, read from the syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dig_jax"

# The first part of a path inside dig_jax -> what it may import of ours, besides its own folder
# where it is a folder.
ALLOWED = {
    "prng": set(),
    "text": set(),
    "hosts": set(),
    "sharding": set(),
    "losses": set(),
    "models": {"models"},
    "augment": {"augment"},
    "data": {"data", "text"},
    "methods": {"methods", "models", "augment", "losses", "text", "prng"},
    "config": {"workdir", "hosts", "methods", "text"},
    "workdir": {"workdir", "config", "hosts", "sharding", "prng", "text", "train"},
    "evaluators": {"evaluators", "data", "text", "workdir", "hosts", "sharding", "prng", "train"},
    "train": {"train", "workdir", "methods", "data", "config", "hosts", "sharding", "prng", "text"},
    "main": {"train", "hosts"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, at any depth of nesting."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import, which this test cannot judge"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def ours(path: Path) -> set[str]:
    """First parts below dig_jax: "data", "train", ..."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("dig_jax.")}


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path):
    used = ours(path)
    if layer(path) in ALLOWED:
        assert used <= ALLOWED[layer(path)], (
            f"{layer(path)} must not import {used - ALLOWED[layer(path)]}"
        )
    if layer(path) == "methods":
        inside = {n.split(".")[2] for n in imported(path) if n.startswith("dig_jax.methods.")}
        assert inside <= {"shared"}, "one method must not import another"
    assert "main" not in used, "nobody imports main"
    assert not [n for n in imported(path) if n.split(".")[0] == "configs"], "nobody imports configs"
    if layer(path) not in (
        "main",
        "train",
        "tools",
    ):  # tools are programs: some take --config themselves
        assert not [n for n in imported(path) if n.startswith("ml_collections")]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_configs_import_only_their_presets(path):
    names = imported(path)
    assert not [n for n in names if n.split(".")[0] in ("dig_jax", "jax", "flax", "optax")]
    assert {n for n in names if n.startswith("configs")} <= {
        "configs.common",
        "configs.common.base",
    } or path.name == "common.py"


def test_one_method_and_one_evaluator_a_file():
    for folder, name in (("methods", "Method"), ("evaluators", "Evaluator")):
        for path in (PACKAGE / folder).glob("*.py"):
            if path.stem != "__init__":
                classes = [
                    n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)
                ]
                assert classes.count(name) == 1, path


# Grew over 400 lines when the code was formatted; whoever splits one takes it off.
TO_SPLIT = {
    "ccd.py",
    "checkpoint.py",
    "common.py",
    "pipeline.py",
    "vit.py",
}


def test_no_grab_bags_and_no_giants():
    for path in FILES:
        assert "utils" not in path.stem, path
        if path.name in TO_SPLIT:
            continue
        assert len(path.read_text().splitlines()) <= 400, f"{path} has more than 400 lines"


def test_presets_know_the_sizes_of_the_encoder():
    """configs may not import the package, so the two tables are compared here."""
    from configs import common
    from dig_jax.models import crnn, vit

    assert common.SIZES == vit.SIZES and common.CNN_SIZES == crnn.SIZES
