"""The command line of every program: --config=NAME|FILE.py[:ARGS], folders, --help, errors.

    --config=dig:preset=cpu                       a config of dig_jax by its name
    --config=configs/pretrain/dig.py:preset=cpu   the same by its path, from any working directory
    --config=mine.py                              a file of yours
    --config.optim.lr=1e-3                        any option, whether the file states it or not

Programs define flags here, run `run(main)` and read `config()`. What a user did wrong ends in one
sentence and exit code 1; --help ends with 0.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import errno
import importlib.util
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, FieldReference, config_flags

from dig_jax.config import hint
from dig_jax.data.extras import MissingExtra
from dig_jax.workdir import bucket

flags.disclaim_key_flags()  # what is defined here is listed by the --help of the program
PACKAGE = pathlib.Path(__file__).parents[1]
CONFIGS = PACKAGE / "configs"  # installed with the package


# ---- config files


def find(name: str) -> pathlib.Path:
    """The config file of a name or path. FileNotFoundError that lists the names.

    A path that exists wins. One that does not is looked for among the package's own, from
    "configs/" on or below it, such as recognize/scratch.py.
    """
    own = {path.stem: path for path in sorted(CONFIGS.glob("*/[!_]*.py"))}
    path = pathlib.Path(os.path.expanduser(name))
    if path.is_file():
        return path
    if name in own:
        return own[name]
    inside = CONFIGS / path.as_posix().removeprefix("configs/")
    if inside in own.values():
        return inside
    near = difflib.get_close_matches(path.stem, own, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise FileNotFoundError(
        f"there is no config file {name}: {hint}Name a file, or one of {', '.join(own)}"
    )


def load(text: str) -> ConfigDict:
    """--config=TEXT -> the config, with every option that it leaves out at its default."""
    name, colon, arg = text.partition(":")
    path = find(name)
    spec = importlib.util.spec_from_file_location(f"dig_jax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stated = module.get_config(arg) if colon else module.get_config()
    return complete(stated)


def complete(config: ConfigDict) -> ConfigDict:
    """The config with all options of dig_jax/train/defaults.py, so that any can be overridden."""
    from dig_jax.train import defaults  # late: --help needs neither JAX nor the methods

    bare: dict[str, Any] = {"data": {"kind": config.data.kind}, "optim": {}}
    bare["method"] = {"name": config.method.name}
    if encoder := config.method.get("encoder"):
        bare["method"]["encoder"] = {"size": encoder.get("size"), "kind": encoder.get("kind")}
    kinds = {name: own.get("evaluator") for name, own in config.get("evals", {}).items()}
    bare["evals"] = {name: {"evaluator": kind} if kind else {} for name, kind in kinds.items()}
    _add(config, defaults.filled(bare))
    return config.lock()


ANY_TYPE = ("buckets_px", "workers")  # "auto", a number or several


def _add(config: ConfigDict, usual: dict[str, Any]) -> None:
    """Adds what the config leaves out. What may be None is open to values of any type."""
    for name, default in usual.items():
        value = config.get(name, default)
        if isinstance(default, dict):
            if name not in config:
                config[name] = ConfigDict()
            _add(config[name], default)
        elif default is None or name in ANY_TYPE:
            if name in config:
                del config[name]
            config[name] = FieldReference(value, field_type=object)
        elif name not in config:
            config[name] = value


class _Parser(flags.ArgumentParser):
    syntactic_help = "a name such as dig:preset=cpu, or a file such as mine.py:size=S"

    def parse(self, argument: Any) -> ConfigDict:
        return load(argument) if isinstance(argument, str) else argument

    def flag_type(self) -> str:
        return "config"


def define_config(
    help_text: str, flag_values: flags.FlagValues = flags.FLAGS, default: str | None = None
) -> Any:
    """Defines --config and --config.key=value."""
    holder = config_flags.DEFINE_config_file(
        "config", None, help_text, flag_values=flag_values, lock_config=True
    )
    flag_values["config"].parser = _Parser()
    if default is not None:
        flag_values.set_default("config", default)
    return holder


def config() -> ConfigDict:
    """The config of the command line. Of two options that exclude each other, the one that was
    given there counts: epochs and steps, None and what would be inherited."""
    flag = flags.FLAGS["config"]
    chosen, given = flag.value, flag.override_values
    with chosen.unlocked():
        if given.get("total.epochs") is not None and given.get("total.steps") is None:
            chosen.total.steps = None
        if given.get("total.steps") is not None and given.get("total.epochs") is None:
            chosen.total.epochs = None
        said = {key for key, value in given.items() if value is None}
        chosen.inherit = tuple(key for key in chosen.inherit if key not in said)
    return chosen


# ---- folders


class _PathParser(flags.ArgumentParser):
    syntactic_help = "a path; ~ is your home"

    def __init__(self, buckets: bool = False):
        super().__init__()
        self.buckets = buckets

    def parse(self, argument: str) -> str:
        if "://" in argument:
            if self.buckets:
                bucket.check(argument)  # of packages the trainer asks
                return argument.rstrip("/")
            raise ValueError(
                "it is the address of an object store: name a folder of a file system, such as "
                "NFS, Filestore or the bucket mounted"
            )
        return os.path.expanduser(argument)


def define_path(
    name: str,
    default: str | None,
    help_text: str,
    flag_values: flags.FlagValues = flags.FLAGS,
    buckets: bool = False,
) -> Any:
    """Defines a flag that names a file or folder: "~" is expanded. buckets: gs://bucket/folder is
    taken, too, and checked; else every address is refused."""
    return flags.DEFINE(_PathParser(buckets), name, default, help_text, flag_values=flag_values)


# ---- running a program


def run(main: Callable[[list[str]], Any]) -> None:
    """Entry point of a program: parses the flags and calls main(argv); errors become sentences."""

    def guarded(argv: list[str]) -> Any:
        logging.get_absl_handler().addFilter(tells)
        try:
            code = main(argv)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # whoever reads has seen enough, as head has: end as cat would
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(128 + signal.SIGPIPE) from None
        except (ValueError, OSError, MissingExtra) as error:
            raise SystemExit(f"error: {sentence(error)}") from None

    app.run(guarded, flags_parser=parse)


def tells(line: Any) -> bool:
    """Whether a line of the log is shown: Orbax and JAX tell a page of details at every save and
    load, of which the warnings come through. Their files may lie in a clone called dig_jax, too."""
    own = line.pathname.startswith(f"{PACKAGE}{os.sep}")
    return own or line.levelno >= logging.converter.STANDARD_WARNING


def sentence(error: Exception) -> str:
    """An error in one line; of the system, what happened and to which file. It names none where a
    disk is full: that is what the program writes, by its flags."""
    if isinstance(error, OSError) and error.errno is not None:
        file = written() if error.filename is None and error.errno in FULL else error.filename
        if file is not None:
            return f"{file}: {(error.strerror or '').lower() or error.errno}"
    return " ".join(str(error).split())


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def written() -> str | None:
    """What the flags say that this program writes."""
    named = (flags.FLAGS[name].value for name in ("output", "workdir") if name in flags.FLAGS)
    return next((str(value) for value in named if value), None)


@contextlib.contextmanager
def naming(file: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the system that name no file, as those of a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(file)
        raise


def parse(argv: list[str]) -> list[str]:
    """Flags. Exits with 0 after --help, and with 1 and one sentence where they are wrong."""
    if any(re.fullmatch("--?(h|help|helpshort|helpfull)", word) for word in argv[1:]):
        app.usage(shorthelp="--helpfull" not in argv, writeto_stdout=True)
        print(config_text(argv), end="")
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if "--traceback" in argv:
            raise
        while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps one
            error = error.args[0]
        words = unknown_key(argv) or str(error.args[-1] if error.args else error)
        print(
            "error: the command line is wrong (--help explains it): " + " ".join(words.split()),
            file=sys.stderr,
        )
        sys.exit(1)


def config_of(argv: list[str]) -> str | None:
    """What --config says, in one argument or two."""
    for given, following in zip(argv, [*argv[1:], ""]):
        if found := re.fullmatch(r"--?config(?:=(.*))?", given):
            return found[1] or following
    return None


def config_text(argv: list[str]) -> str:
    """What the config file of --config says at its head; "" without one."""
    text = config_of(argv)
    if not text:
        return ""
    path = find(text.partition(":")[0])
    words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return f"\n{path}:\n\n{words}\n" if words else ""


def unknown_key(argv: list[str]) -> str | None:
    """A sentence about the first --config.key that the config lacks; None where it has them all."""
    try:
        config = load(config_of(argv) or "")
    except Exception:  # then that is what is wrong
        return None
    for word in argv:
        if not (found := re.match(r"--?(?:no)?config\.([\w.]+)", word)):
            continue
        inside, here = config, "config"
        for name in found[1].split("."):
            if not isinstance(inside, ConfigDict):
                return f"{here} is {inside!r}, which has no {name!r}"
            if name not in inside:
                names = sorted(inside.keys())
                return f"{here} has no key {name!r}: {hint(name, names)}it has {', '.join(names)}"
            inside, here = inside[name], f"{here}.{name}"
    return None
