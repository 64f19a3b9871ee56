"""python -m dig_jax: what programs there are, and where to start."""

from __future__ import annotations

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parent
START = """dig_jax: self-supervised pre-training for text recognition, in JAX

Where to start
  make_records turns images into records, dig_jax.main trains on them, report shows the result:

  python -m dig_jax.tools.make_records --source=folder --input=LINES --output=records/lines
  python -m dig_jax.main --config=configs/pretrain/dig.py:preset=cpu \\
    --config.data.train=records/lines --workdir=runs/dig
  python -m dig_jax.main --config=configs/recognize/finetune.py --config.init_from=runs/dig \\
    --workdir=runs/reader
  python -m dig_jax.tools.report runs/dig runs/reader

Programs (each explains itself: python -m NAME --help)
"""
END = """
To read: README.md; docs/architecture.md for the rooms of the house; docs/launch.md for clusters.
"""


def programs() -> dict[str, str]:
    """{module: first sentence of its docstring} of all that can be run."""
    found = {}
    for path in [PACKAGE / "main.py", *sorted(PACKAGE.glob("tools/**/*.py"))]:
        text = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text and path.name != "program.py":
            name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            words = " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())
            found[name] = words.split(": python -m")[0].split(". ")[0].rstrip(".")
    return found


def main() -> None:
    width = max(map(len, programs()))
    lines = (f"  {name:{width}}  {words}" for name, words in programs().items())
    print(START + "\n".join(lines) + END, end="")


if __name__ == "__main__":
    main()
