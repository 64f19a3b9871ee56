"""Train, fine-tune, probe or evaluate: python -m dig_jax.main --config=configs/pretrain/dig.py
--workdir=runs/dig

--config=FILE.py:ARGS passes ARGS to the file's get_config; --config.key=value overrides one value.
The same command in the same workdir resumes. Exit code: 0 done, 1 stopped with a sentence, 143
saved after SIGTERM, 130 saved after Ctrl-C (or stopped without saving, after a second one or before
the first step).
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from dig_jax import hosts
from dig_jax.train import run as train
from dig_jax.train import signals as interrupts

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file, such as configs/pretrain/dig.py:size=S,quick"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of this run: config, metrics, checkpoints, report"
)
_TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "show where an error came from, not only its sentence"
)


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        print(
            f"unexpected argument {argv[1]!r}: give --config=FILE.py --workdir=DIR --config.key=value",
            file=sys.stderr,
        )
        return 1
    # Orbax and JAX tell a page of details at every save; what they warn of still comes through.
    logging.get_absl_handler().addFilter(
        lambda line: (
            line.levelno >= logging.converter.STANDARD_WARNING or "dig_jax" in line.pathname
        )
    )
    try:
        hosts.initialize()
        train.run(_CONFIG.value, _WORKDIR.value)
    except (
        ValueError,
        OSError,
        train.Stopped,
    ) as error:  # OSError: a file that is not there, a full disk
        if _TRACEBACK.value:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "stopped without saving: the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return interrupts.INTERRUPTED
    return 0


def sentence(error: Exception) -> str:
    """The words of an error in one line; of an error of the system, what happened and to which
    file.
    """
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {(error.strerror or '').lower() or error.errno}"
    return " ".join(str(error).split())


def parse(argv: list[str]) -> list[str]:
    """Flags, with what a config file or an override raises told in one sentence."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        if "--traceback" in argv:
            raise
        while error.args and isinstance(
            error.args[0], Exception
        ):  # ml_collections wraps one in another
            error = error.args[0]
        words = str(error.args[0] if error.args else error)
        if isinstance(error, KeyError) and " " not in words:  # only the name that is not there
            words = f"the config has no key {words.strip(chr(39))!r}"
        if "Traceback" in words:  # a config file that raised: its own words are the last line
            words = words.strip().splitlines()[-1].split("Error: ", 1)[-1]
        print(
            f"error: the command line is wrong (--help explains it): {' '.join(words.split())}",
            file=sys.stderr,
        )
        sys.exit(1)


def cli() -> None:
    """Entry point."""
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
