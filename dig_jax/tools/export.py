"""Export what was trained: python -m dig_jax.tools.export --model=RUN --format=F --output=DIR

    python -m dig_jax.tools.export --model=runs/reader --format=safetensors --output=exports/reader

Formats:

    safetensors, orbax  weights, for dig_jax and others
    stablehlo           a program with its weights, for cpu, cuda and tpu; float32 and bfloat16
    onnx                readers and encoders, for onnxruntime; decoding inside, by CTC logits, too
    torch               the state dict of a ViT, with the names of timm

A recogniser is exported as a reader, a pre-training as an encoder. --kind=encoder takes the encoder
of a recogniser.

Weights that ship with the package are such exports, under dig_jax/weights/NAME (see its README.md):
--format=safetensors --dtype=float16 --about=about.md, whose text goes into card.md.

--texts=RECORDS makes the export of a reader bring an n-gram of these texts along. `load_reader`
then reads with it (--lm is its order, 4 by default; beam 8). --lm=0 leaves out the one that an
export has, as `hands`: stablehlo cannot hold it.

The folder appears once the export has read lines as the network does. The lines are --lines
(images, folders or records), or those that the run was trained on, or those that ship with the
model, or typeset ones. card.md in it says how to load it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from dig_jax.data.line_images import LineImage
from dig_jax.data.sizes import BadRecord
from dig_jax.tools import predict, program, reader_flags
from dig_jax.train import command_line

FLAGS = flags.FLAGS
FORMATS = (
    "safetensors",
    "orbax",
    "stablehlo",
    "onnx",
    "torch",
)  # interop/export.py, which imports JAX
LINES = "lines"  # the folder of images in that of bundled weights
PROOF_LINES = 12
LOOKED_AT = 200  # lines among which those of the most different widths are taken


def proof_lines(
    model: Any, names: Sequence[str], beside: pathlib.Path | None = None
) -> tuple[list[LineImage], str]:
    """(lines of several widths as the network takes them, where they are from). beside: the folder
    of the model, which may hold some under `lines`, as bundled weights do."""
    own = [str(beside / LINES)] if beside and (beside / LINES).is_dir() else []
    trained_on = _trained_on(model.origin.get("trained_on") or "")
    sources = {"given lines": names, "training lines": trained_on, "lines of the model": own}
    for about, source in sources.items():
        if source:
            lines = list(_usable(model, predict.inputs(source)))
            if len(lines) >= 3:
                return _spread(lines), about
            if source is names:
                raise ValueError(
                    f"--lines={','.join(names)} has {len(lines)} usable images: give at least 3"
                )
    return _spread(list(_usable(model, typeset_lines(model)))), "typeset lines"


def _trained_on(spec: str) -> list[str]:
    """The folders of a records spec that are still there."""
    from dig_jax.data import records

    try:
        parts = records.parse_spec(spec) if spec else []
        return [f"{p}@{split}" for p, split, _ in parts if os.path.isfile(f"{p}/records.json")]
    except (ValueError, OSError):
        return []


def _usable(model: Any, images: Iterator[tuple[str, Any]]) -> Iterator[LineImage]:
    for number, (_, image) in enumerate(images):
        if number >= LOOKED_AT:
            return
        try:
            if not isinstance(image, BadRecord):
                yield model.prepared(image)
        except BadRecord:
            continue


def _spread(lines: list[LineImage]) -> list[LineImage]:
    """Lines from the narrowest to the widest."""
    lines = sorted(lines, key=lambda line: line.pixels.shape[1])
    chosen = np.unique(np.linspace(0, len(lines) - 1, PROOF_LINES).round().astype(int))
    return [lines[i] for i in chosen]


def typeset_lines(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Drawn lines of 2 to 60 letters."""
    import matplotlib  # only for the font that it carries

    from dig_jax.data import typeset

    font = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf")
    rng = np.random.default_rng(0)
    words = "the quick brown fox jumps over the lazy dog and runs away into the woods"
    for count in np.linspace(2, 60, PROOF_LINES).astype(int):
        text = words[:count].strip()
        yield text, typeset.render(rng, rng, text, str(font), 48, model.preparation.channels)


def with_ngram(model: Any, given: Mapping[str, Any]) -> Any:
    """The model with the n-gram of --texts; without them with its own, which --lm=0 or --beam=1
    leaves out."""
    stated = {name: value for name, value in given.items() if value is not None}
    if not stated:
        return model
    if stated.items() <= {"lm": 0, "beam": 1}.items():
        return dataclasses.replace(model, search={})
    if given["texts"] is None or model.charset is None:
        raise ValueError("an n-gram is learnt of texts for a reader: give --texts, and a reader")
    from dig_jax import load

    found = load.searching(model, model.charset, **given).options
    names = {"beam": "beam", "lm": "lm", "lm_weight": "weight", "lm_bonus": "bonus"}
    return dataclasses.replace(model, search={name: found[own] for name, own in names.items()})


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: write --name=value")
    from dig_jax.interop import export
    from dig_jax.interop.model import located, open_model

    kind = FLAGS.kind or ("encoder" if FLAGS.format == "torch" else None)
    model = open_model(FLAGS.model, kind, FLAGS.checkpoint, FLAGS.head)
    lines, about = proof_lines(model, FLAGS.lines, located(FLAGS.model))
    output, text = pathlib.Path(FLAGS.output), ""
    if FLAGS.about:
        try:
            text = program.path(FLAGS.about, "--about").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--about={FLAGS.about} cannot be read as text: {error}") from error
    model = with_ngram(model, reader_flags.search())
    found = export.write(model, FLAGS.format, output, lines, about, FLAGS.dtype, text)
    print(f"{output}: the {model.kind} of {FLAGS.model}, step {model.origin.get('step')}")
    for name, result in found.items():
        if isinstance(result, dict) and "difference" in result:
            numbers = (x for part, x in result["difference"].items() if part != "frame")
            worst = max(numbers, default=0.0)
            print(
                f"  {name}: as the network on {len(lines)} {about}; largest difference "
                f"{worst:.1e}, "
                f"{result['ids_differ']} of {result['ids']} characters differ"
            )


if __name__ == "__main__":
    command_line.define_path("model", None, "Work folder of a run, or an export.", buckets=True)
    command_line.define_path("output", None, "Folder to make.")
    flags.DEFINE_enum("format", None, FORMATS, "What to write.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "float16"], "How safetensors are stored.")
    command_line.define_path("about", None, "Markdown for the card: data, licence, limits.")
    flags.DEFINE_enum("kind", None, ["reader", "encoder"], "Default: a reader where there is one.")
    flags.DEFINE_list("lines", [], "Images, folders or records to prove the export on.")
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which one of a run.")
    flags.DEFINE_string("head", None, "Head of a sweep; by default the best on validation.")
    reader_flags.define_search_flags()
    for name in ("model", "format", "output"):
        flags.mark_flag_as_required(name)
    program.run(main)
