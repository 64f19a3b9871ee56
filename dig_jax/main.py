"""Train, fine-tune, probe or evaluate.

    python -m dig_jax.main --config=dig:preset=cpu,records=records/lines --workdir=runs/dig

--config names a config of dig_jax (dig, mae, ..., probe, finetune, scratch, evaluate) or a file
such as configs/pretrain/dig.py. Its arguments follow the colon. --config.key=value overrides one
option, and --config=NAME --help explains a config. The same command in the same workdir resumes.

Exit codes:

    0    done
    1    stopped with one sentence on stderr
    130  Ctrl-C: saved, or stopped without saving (a second Ctrl-C, or before the first step)
    134  another host was lost, or one is stuck: start all of them again
    143  SIGTERM: saved
"""

import sys

from absl import flags

from dig_jax import hosts
from dig_jax.train import command_line, signals, watch
from dig_jax.train import run as train
from dig_jax.train.command_line import parse  # noqa: F401  (of the command line, as tests call it)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    command_line.define_config("name or file of a config, and its arguments", flag_values)
    what = "folder of this run, or gs://bucket/folder: config, metrics, checkpoints, report"
    command_line.define_path("workdir", None, what, flag_values, buckets=True)
    what = "show where an error came from, not only its sentence"
    flags.DEFINE_bool("traceback", False, what, flag_values=flag_values)


define_flags()


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        print(
            f"unexpected argument {argv[1]!r}: give --config=NAME --workdir=DIR --config.key=value",
            file=sys.stderr,
        )
        return 1
    try:
        watch.limit()  # a wrong one is said now
        hosts.initialize()
        train.run(command_line.config(), flags.FLAGS.workdir)
    except (ValueError, OSError, train.Stopped) as error:  # OSError: no such file, a full disk
        if flags.FLAGS.traceback:
            raise
        print(f"error: {command_line.sentence(error)}", file=sys.stderr)
        return hosts.LOST if isinstance(error, train.LostHost) else 1
    except KeyboardInterrupt:
        print(
            "stopped without saving: the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return signals.INTERRUPTED
    return 0


def cli() -> None:
    """Entry point."""
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.run(main)


if __name__ == "__main__":
    cli()
