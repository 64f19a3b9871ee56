"""Import weights: python -m dig_jax.tools.import_weights --layout=L --input=FILE --output=DIR

    python -m dig_jax.tools.import_weights --layout=dig --input=dig_small.pth --output=runs/dig_s
    python -m dig_jax.main --config=finetune --config.init_from=runs/dig_s \\
      --config.data.train=records/lines --workdir=runs/reader
    python -m dig_jax.tools.import_weights --layout=dig_jax --input=gen48 --output=runs/gen48

Layouts: dig, mocov3, mae (MAE, and Union14M's), maerec (fine-tuned by MMOCR), ccd, ssm, parseq: the
encoder. dig_jax is an export of our own, or the name of bundled weights; a reader stays whole, so
it can be evaluated, and gone on with by finetune:reader.
FILE: a state dict as .safetensors, or a .pth checkpoint where torch is installed; only weights are
read. DIR becomes a work folder: for config.init_from, load_encoder and load_reader.

The features are those of the original (docs/exchange.md). A table of positions fits images of one
size; --for_px stretches it to another. Weights keep the licence of the project they come from.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from absl import flags

from dig_jax.interop.layouts import LAYOUTS, PIXELS
from dig_jax.tools import program
from dig_jax.train import command_line

FLAGS = flags.FLAGS
EXPORT = "dig_jax"  # the layout that is an export of ours, no state dict of another project
# What an export states itself.
OF_STATE_DICTS = "prefix heads pixels trained_px for_px channels class_token".split()


def size(text: str | None, flag: str) -> tuple[int, int] | None:
    """ "32x128" -> (32, 128)."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise ValueError(f"--{flag} is {text!r}: write height and width in pixels, such as 32x128")
    return int(found[1]), int(found[2])


def main(argv: list[str]) -> int:
    if argv[1:]:
        raise ValueError(f"{argv[1]!r} is no flag: this program takes --layout, --input, --output")
    output = program.path(FLAGS.output, "--output")
    if output.exists():
        raise FileExistsError(f"{output} exists: name another folder, or move it out of the way")
    trained, wanted = (size(FLAGS[name].value, name) for name in ("trained_px", "for_px"))
    from dig_jax.interop import import_vit, state_dict  # late: --help needs no JAX

    if FLAGS.layout == EXPORT:
        if idle := [f"--{name}" for name in OF_STATE_DICTS if FLAGS[name].present]:
            raise ValueError(
                f"{', '.join(idle)}: --layout={EXPORT} takes an export as it is, so leave it out"
            )
        print(f"{output}: {of_export(output, FLAGS.input)}")
        return 0
    file = program.path(FLAGS.input, "--input")
    found = import_vit.convert(
        state_dict.read(file),
        FLAGS.layout,
        prefix=FLAGS.prefix,
        heads=FLAGS.heads,
        pixels=FLAGS.pixels,
        trained_px=trained,
        for_px=wanted,
        channels=FLAGS.channels,
        class_token=FLAGS.class_token == "keep",
    )
    height, width = wanted or trained or LAYOUTS[FLAGS.layout].trained_px
    data = {"height_px": height, "channels": FLAGS.channels, "contrast": None}
    data["squeeze_px"] = width if wanted is None else None
    method = {"name": "imported", "encoder": found.encoder, "layout": FLAGS.layout}
    write(output, file.name, method, data, {"params": {"encoder": found.params}, "mutable": {}})
    parts = ", ".join(f"{key} {value}" for key, value in found.encoder.items())
    print(f"{output}: {parts}")
    print(f"read from names under {found.prefix or 'the top'!r}; {found.others} arrays are others'")
    if found.left_out:
        print(f"left out: {', '.join(found.left_out[:8])}{' ...' * (len(found.left_out) > 8)}")
    return 0


def of_export(output: pathlib.Path, source: str) -> str:
    """The work folder of an export or of bundled weights. -> what to do with it."""
    from dig_jax.interop.model import open_model

    model = open_model(source, None)
    if model.program is not None:
        raise ValueError(
            f"{source} is a program, and its weights cannot be taken out: import the run, or an "
            "export to safetensors or orbax"
        )
    data = dataclasses.asdict(model.preparation)
    if model.charset is None:
        method = {"name": "imported", "encoder": model.options["encoder"]}
        write(output, source, method, data, model.weights, origin=model.origin)
        return f"the encoder of {source}; start from it with --config.init_from"
    charset = model.charset.to_json()
    write(output, source, model.options, data, model.weights, charset, model.origin)
    return (
        f"the reader {source}; --config=finetune:reader --config.init_from={output} goes on with "
        "it, and finetune starts from its encoder alone"
    )


def write(
    output: pathlib.Path,
    source: str,
    method: Mapping[str, Any],
    data: Mapping[str, Any],
    weights: Mapping[str, Any],
    charset: Any = None,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """A work folder with one checkpoint, of step 0, and its config. origin: of an export, where its
    weights come from, which an export of this folder says, too."""
    import jax.numpy as jnp
    from jax import tree

    from dig_jax.train.state import TrainState
    from dig_jax.workdir import checkpoint

    config = {"imported": source, "method": dict(method), "data": dict(data)}
    config |= {"origin": dict(origin)} if origin else {}
    placed = tree.map(jnp.asarray, dict(weights))
    state = TrainState(step=jnp.int32(0), teacher=None, opt_state={}, **placed)
    saved = checkpoint.Checkpoints(str(output))
    meta = {"config": config, "charset": charset, "layout": checkpoint.LAYOUT}
    saved.save(0, state, {}, meta)
    saved.close()
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (output / "config.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    flags.DEFINE_enum("layout", None, [EXPORT, *LAYOUTS], "Whose weights they are.")
    command_line.define_path("input", None, "State dict (.safetensors, .pth), or our export.")
    command_line.define_path("output", None, "Work folder to make.")
    flags.DEFINE_string("prefix", None, "What names begin with, instead of the layout's own.")
    flags.DEFINE_integer("heads", None, "Attention heads, where they do not follow.")
    flags.DEFINE_enum("pixels", None, list(PIXELS), "Normalisation, instead of the layout's own.")
    flags.DEFINE_string("trained_px", None, "HxW of its training images; default: the layout's.")
    flags.DEFINE_string("for_px", None, "HxW of your lines: stretches positions.")
    flags.DEFINE_integer("channels", 3, "1 for grey lines: the colours are added up.")
    flags.DEFINE_enum("class_token", "keep", ["keep", "drop"], "Where there is one.")
    for name in ("layout", "input", "output"):
        flags.mark_flag_as_required(name)
    program.run(main)
