"""python -m dig_jax, or dig-jax: what programs there are, where to start; dig-jax NAME runs one."""

from __future__ import annotations

import ast
import difflib
import pathlib
import runpy
import sys
import textwrap

PACKAGE = pathlib.Path(__file__).parent
START = """dig_jax: self-supervised pre-training for text recognition, in JAX

Read lines now, with a reader that ships (fraktur, print, hands), or a whole page
  python -m dig_jax.tools.predict --model=fraktur MY_LINES --output=readings.tsv
  python -m dig_jax.tools.read --model=fraktur PAGE

See the whole job in ten minutes, in a clone: make demo

From your own lines to a reader
  python -m dig_jax.tools.make_records --source=folder --input=MY_LINES \\
    --validation=0.1 --output=records/mine
  python -m dig_jax.main --config=dig:preset=cpu,objective=gen,size=cnn48_lstm,steps=1600 \\
    --config.data.train=records/mine --workdir=runs/gen
  python -m dig_jax.main --config=finetune:head=linear --config.init_from=runs/gen \\
    --workdir=runs/reader
  python -m dig_jax.tools.report runs/gen runs/reader

Programs (each explains itself: python -m NAME --help)
"""
# dig-jax NAME -> the program, of those that are there.
COMMANDS = {
    "train": "dig_jax.main",
    "records": "dig_jax.tools.make_records",
    "check": "dig_jax.tools.records_check",
    "show": "dig_jax.tools.show_records",
    "predict": "dig_jax.tools.predict",
    "read": "dig_jax.tools.read",
    "web": "dig_jax.tools.web",
    "export": "dig_jax.tools.export",
    "import": "dig_jax.tools.import_weights",
    "report": "dig_jax.tools.report",
    "plan": "dig_jax.tools.perf.plan",
    "bench": "dig_jax.tools.perf.bench_step",
}
COMMANDS = {
    name: module
    for name, module in COMMANDS.items()
    if PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py").is_file()
}
END = """
Short: dig-jax NAME, where NAME is one of {commands}.

To read: README.md and docs/index.md; docs/launch.md for clusters; colab/ has notebooks.
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


def main(argv: list[str] | None = None) -> int:
    """Lists the programs, or runs the one that is named. -> exit code."""
    name, *given = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        sys.argv = [COMMANDS[name], *given]
        # As python -m does, so that worker processes find the program, too.
        runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)
        return 0
    if name not in ("--help", "-h", "help"):
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        print(
            f"error: there is no {name!r}: {meant}It is one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 1
    overview()
    return 0


def overview() -> None:
    width = max(map(len, programs()))
    lines = (
        textwrap.fill(f"  {name:{width}}  {words}", 100, subsequent_indent=" " * (width + 4))
        for name, words in programs().items()
    )
    end = END.replace("{commands}", ", ".join(COMMANDS))
    print(START + "\n".join(lines) + "\n" + end, end="")


if __name__ == "__main__":
    sys.exit(main())
