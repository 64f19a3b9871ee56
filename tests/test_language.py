"""What a person reads is easy to read: lines of 100 characters, sentences that end."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = [p for name in ("dig_jax", "configs") for p in sorted((ROOT / name).rglob("*.py"))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WIDTH = 100
ITEM = re.compile(r"^(?:[-*+]|\d+\.) +")
END = re.compile(r"(?<=[.!?])[\"')*_`\]]*\s+")
NO_END = re.compile(r"(?:\b(?:e\.g|i\.e|eq|fig|sec|vs|al|cf)|\.\.)\.$", re.I)
TABLE = re.compile(r"\||\S {2,}\S|:::")


def sentences(paragraph: str) -> list[str]:
    """A paragraph -> its sentences; an abbreviation ends none."""
    found: list[str] = []
    for piece in END.split(paragraph):
        if found and NO_END.search(found[-1]):
            found[-1] += " " + piece
        else:
            found.append(piece)
    return found


def words(sentence: str) -> int:
    """Words of a sentence: `code in backticks` and [a link](address) as they are read."""
    text = re.sub(r"\]\([^)]*\)", "]", sentence)
    return sum(any(c.isalnum() for c in word) for word in text.split())


def paragraphs(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(number, lines) of paragraphs and of list items. Indented blocks and tables are left out."""
    held: list[str] = []
    start, listed = 0, False
    for number, line in enumerate([*lines, ""]):
        text = line.strip()
        item, indented = bool(ITEM.match(text)), line.startswith("  ")
        if held and (not text or item or (indented and not listed) or TABLE.search(line)):
            yield start, held
            held = []
        listed = item or (listed and (indented or not text or bool(held)))
        if text and (listed or not indented) and not TABLE.search(line):
            start = start if held else number
            held.append(ITEM.sub("", text) if item else text)


def docstring_sentences(path: Path) -> Iterator[tuple[str, str]]:
    """("file:line", sentence) of every docstring of a module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if text := ast.get_docstring(node):
                top = node.body[0].lineno
                for line, paragraph in paragraphs(text.splitlines()):
                    for sentence in sentences(" ".join(paragraph)):
                        yield f"{path.relative_to(ROOT)}:{top + line}", sentence


def prose(path: Path) -> list[str]:
    """Lines of a page; "" instead of code, tables, headings, pictures, HTML and generated text."""
    kept, fenced, generated = [], False, False
    for line in path.read_text("utf-8").splitlines():
        fence = re.match(r"\s*(?:```|~~~)", line)
        fenced ^= bool(fence)
        generated = "results: begin" in line or (generated and "results: end" not in line)
        skip = fence or fenced or generated or re.match(r"\s*(?:\||#|<|!\[|\[!|:::|\{)", line)
        kept.append("" if skip else line)
    return kept


def page_sentences(path: Path) -> Iterator[tuple[str, str]]:
    for line, paragraph in paragraphs(prose(path)):
        for sentence in sentences(" ".join(paragraph)):
            yield f"{path.relative_to(ROOT)}:{line + 1}", sentence


def longer_than(limit: int, found: list[tuple[str, str]]) -> list[str]:
    return [f"{where}: {words(text)} words: {text}" for where, text in found if words(text) > limit]


def test_lines_are_short():
    """Code, and the prose of pages: addresses and commands (indented by four) may be longer."""
    wrong = []
    for path in CODE + PAGES:
        lines = path.read_text("utf-8").splitlines() if path in CODE else prose(path)
        for number, line in enumerate(lines, 1):
            command = path in PAGES and line.startswith("    ")
            if len(line) > WIDTH and "://" not in line and not command:
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {len(line)}")
    assert not wrong, "\n".join(wrong)


def test_sentences_of_docstrings_end():
    wrong = longer_than(40, [found for path in CODE for found in docstring_sentences(path)])
    assert not wrong, "\n".join(wrong)


def test_sentences_of_pages_end():
    wrong = longer_than(35, [found for path in PAGES for found in page_sentences(path)])
    assert not wrong, "\n".join(wrong)


def test_the_readme_fits_in_100_lines():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 100
