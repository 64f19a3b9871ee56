"""Commands of README and docs/: their configs load, and their options and flags exist."""

import re
from pathlib import Path

import pytest

from dig_jax.__main__ import COMMANDS
from dig_jax.train import command_line
from tests import test_docs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIG = re.compile(r"--config=([\w./]*\w(?::[\w.,=/+-]*\w)?)(?![\w/])")
TOOL = re.compile(r"python -m (dig_jax\.tools\.(?:perf\.)?\w+)([^\n`|]*)")
SHORT = re.compile(r"dig-jax (?!train\b)([a-z]+)((?: [^\n`|]*)?)(?=$|`)")  # train: see the configs
NOT_MEANT = re.compile(r"[A-Z]{2}|mine\.py")  # placeholders
SHARED_FLAGS = ("source_flags", "reader_flags", "program")  # of the tools that import them


@pytest.fixture(scope="module")
def lines():
    """[(page, line)], with the continuations of a command in one line."""
    texts = {path.name: re.sub(r"\\\n\s*", " ", path.read_text("utf-8")) for path in PAGES}
    return [(name, line) for name, text in texts.items() for line in text.splitlines()]


def test_configs_load_and_have_the_options(lines):
    wrong, seen, examples = [], 0, {Path(name).stem for name in test_docs.EXAMPLES}
    for page, line in lines:
        for text in CONFIG.findall(line):
            name = text.partition(":")[0]
            if NOT_MEANT.search(text) or Path(name).stem in examples or name.endswith("."):
                continue
            seen += 1
            try:
                inside = command_line.load(text).to_dict()
            except (ValueError, OSError) as error:
                wrong.append(f"{page}: --config={text}: {error}")
                continue
            for key in re.findall(r"--config\.([\w.]+)=", line):
                here = inside
                for step in key.split("."):
                    if not isinstance(here, dict) or step not in here:
                        wrong.append(f"{page}: --config={text} has no {key}")
                        break
                    here = here[step]
    assert not wrong and seen > 20, "\n".join(wrong)


def test_flags_of_programs_exist(lines):
    wrong, seen = [], 0
    shared = {name: (ROOT / f"dig_jax/tools/{name}.py").read_text("utf-8") for name in SHARED_FLAGS}
    for page, line in lines:
        short = [(COMMANDS.get(name, name), given) for name, given in SHORT.findall(line)]
        for module, given in TOOL.findall(line) + short:
            path = ROOT / (module.replace(".", "/") + ".py")
            source = path.read_text("utf-8") if path.exists() else ""
            if not source and not NOT_MEANT.search(module):
                wrong.append(f"{page}: there is no {module}")
            source += "".join(text for name, text in shared.items() if name in source)
            for flag in re.findall(r"\s--(\w+)", given):
                seen += 1
                if f'"{flag}"' not in source and flag not in ("help", "config"):
                    wrong.append(f"{page}: {module} has no --{flag}")
    assert not wrong and seen > 20, "\n".join(wrong)
