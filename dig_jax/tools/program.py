"""What the programs share: the command line, --help, errors as one sentence, paths.

if __name__ == "__main__":
    flags.DEFINE_...
    program.run(main)
"""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

HELP = {"-h", "-help", "--help", "--helpshort", "--helpfull"}


def run(main: Callable[[list[str]], Any]) -> None:
    """`app.run` with the manners of this package: --help ends with 0, a mistake with 1 and a
    sentence."""

    def told(argv: list[str]) -> Any:
        try:
            return main(argv)
        except (ValueError, OSError) as error:
            print(f"error: {sentence(error)}", file=sys.stderr)
            return 1

    app.run(told, flags_parser=parse)


def sentence(error: Exception) -> str:
    """The words of an error in one line; of an error of the system, what happened and to which
    file.
    """
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {(error.strerror or '').lower() or error.errno}"
    return " ".join(str(error).split())


def parse(argv: list[str]) -> list[str]:
    """The arguments that are no flags. Asked for help, prints it and exits with 0; what a config
    file or an override raises becomes one sentence and exit code 1.
    """
    if HELP & set(argv[1:]):
        app.usage(shorthelp="--helpfull" not in argv, writeto_stdout=True)
        print(config_text(argv[1:]), end="")
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        if "--traceback" in argv:
            raise
        print(
            f"error: the command line is wrong (--help explains it): {_words(error)}",
            file=sys.stderr,
        )
        sys.exit(1)


def _words(error: Exception) -> str:
    while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps errors
        error = error.args[0]
    words = str(error.args[0] if error.args else error)
    if isinstance(error, KeyError) and " " not in words:  # only the name that is not there
        words = f"the config has no key {words.strip(chr(39))!r}"
    if "Traceback" in words:  # a config file that raised: its own words are the last line
        words = words.strip().splitlines()[-1].split("Error: ", 1)[-1]
    return " ".join(words.split())


def config_text(argv: list[str]) -> str:
    """What the file of --config=FILE.py:ARGS says at its head; "" without one."""
    for name, given in zip(argv, [*argv[1:], ""]):
        flag, _, value = name.lstrip("-").partition("=")
        path = pathlib.Path((value or given).split(":")[0])
        if flag == "config" and path.is_file():
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            return f"\n{path}:\n\n{text}\n" if text else ""
    return ""


def path(text: str, what: str) -> pathlib.Path:
    """A path of this machine, `~` expanded. what: where it was given, such as "--output"."""
    if "://" in text:
        raise ValueError(
            f"{what} is {text}, the address of an object store: name a file or folder of a file "
            "system, such as the bucket mounted"
        )
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{what} is {text}, but there is no such user: write the path") from None


def write_picture(output: str, picture: np.ndarray) -> pathlib.Path:
    """Writes u8[H, W, 3] BGR to --output, whose folder is made; ValueError where that fails."""
    import cv2  # here, as most programs do without it

    file = path(output, "--output")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(file), picture)
    except cv2.error:  # a suffix that OpenCV does not know
        written = False
    if not written:
        raise ValueError(f"--output={output} cannot be written: give the name of a .png file")
    return file
