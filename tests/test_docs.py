"""What README, docs, launchers and docstrings name exists: modules, files and launchers."""

import re
from pathlib import Path

from tests import test_imports

ROOT = Path(__file__).parents[1]
TEXTS = [
    *(ROOT / name for name in ("README.md", "Makefile", "pyproject.toml", ".ci/run")),
    *(
        p
        for name in ("docs", "launch", "colab", "examples")
        for p in sorted((ROOT / name).iterdir())
        if p.suffix != ".png"
    ),
    *(p for name in ("dig_jax", "configs", "tests") for p in sorted((ROOT / name).rglob("*.py"))),
]
MODULE = re.compile(r"\b(?:dig_jax|tests)(?:\.[a-z]\w*)+")
COMMAND = re.compile(r"-m\s+((?:dig_jax|tests)(?:\.[a-z]\w*)*)(?![\w.])")
FILE = re.compile(
    r"(?<![\w/.{}-])((?:dig_jax|configs|launch|tests|docs|colab|examples)/[\w/.-]*\.(?:py|sh|md|svg|yaml|ipynb))\b"
)


def titled_blocks() -> list[tuple[str, str]]:
    """(file name, code) of the code blocks in docs/ that say which file they would be."""
    texts = (path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    blocks = re.compile(r'^```python title="([^"]+)"\n(.*?)^```$', re.M | re.S)
    return [found for text in texts for found in blocks.findall(text)]


EXAMPLES = {name for name, _ in titled_blocks()}


def runs(module: str) -> bool:
    """Whether `python -m module` finds something to run."""
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_commands_name_modules_that_exist():
    wrong = set()
    for path in TEXTS:
        if path.is_file() and path != Path(__file__):
            names = COMMAND.findall(path.read_text(encoding="utf-8"))
            wrong |= {(str(path.relative_to(ROOT)), name) for name in names if not runs(name)}
    assert not wrong, f"commands of modules that are not there: {sorted(wrong)}"


def test_documents_name_files_that_exist():
    wrong = set()
    for path in TEXTS:
        if path.is_file() and path != Path(__file__):
            for name in FILE.findall(path.read_text(encoding="utf-8")):
                if re.search(r"[A-Z]{2}|\.\.", name) or name in EXAMPLES:
                    continue
                if not (ROOT / name).exists():
                    wrong.add((str(path.relative_to(ROOT)), name))
    assert not wrong, f"files that are not there: {sorted(wrong)}"


def test_short_names_are_of_files_that_exist():
    """`sharding.py` alone, in documents and drawings."""
    there = {path.name for path in TEXTS} | {"mine.py"}  # an example
    there |= {Path(name).name for name in EXAMPLES}
    wrong = set()
    for path in TEXTS:
        if path.suffix in (".md", ".svg"):
            names = re.findall(r"(?<![\w/.-])([a-z_]+\.(?:py|sh))\b", path.read_text("utf-8"))
            wrong |= {(path.name, name) for name in names if name not in there}
    assert not wrong, f"files that are not there: {sorted(wrong)}"


def test_documents_name_modules_that_exist():
    """`dig_jax.tools.perf.plan`, or a name inside a module."""
    wrong = set()
    for path in TEXTS:
        if path.suffix in (".md", ".sh", ".ipynb", ".yaml", ".svg"):
            for name in MODULE.findall(path.read_text(encoding="utf-8")):
                steps = name.split(".")
                near = [ROOT.joinpath(*steps[:n]) for n in (len(steps), len(steps) - 1)]
                if not any(p.is_dir() or p.with_suffix(".py").is_file() for p in near):
                    wrong.add((str(path.relative_to(ROOT)), name))
    assert not wrong, f"modules that are not there: {sorted(wrong)}"


def test_rules_name_tests_that_exist():
    wrong = []
    for path in TEXTS:
        if path.suffix == ".md":
            for file, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", path.read_text("utf-8")):
                source = ROOT / file
                if not source.is_file() or f"def {name}(" not in source.read_text("utf-8"):
                    wrong.append(f"{path.name}: {file}::{name}")
    assert not wrong, f"tests that are not there: {wrong}"


def test_the_drawing_agrees_with_the_import_rules():
    """docs/architecture.svg: every room of the package, and arrows that the rules allow."""
    drawn = (ROOT / "docs/architecture.svg").read_text(encoding="utf-8")
    rooms = set(re.findall(r'data-room="(\w+)"', drawn))
    calls = [call.split() for call in re.findall(r'data-call="(\w+ \w+)"', drawn)]
    there = {room for room, _ in test_imports.FILES.values()} - {"__init__", "__main__", "configs"}
    assert there - rooms <= {"interop", "pages"}, f"not drawn: {there - rooms}"  # one box with load
    assert len(calls) > 10
    for room, other in calls:
        allowed = test_imports.ALLOWED[room]
        doors = {name.split(".")[0] for name in allowed}  # "room.file" opens one file of a room
        assert "*" in allowed or other in doors, f"the rules forbid {room} -> {other}"
