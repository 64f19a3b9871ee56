"""The doors to use what was trained: an encoder or a reader of line images.

    reader = load_reader("runs/reader")            work folder, export or name of bundled weights
    reader.read(["a.png", array, data])         -> text, confidence and characters of each line
    load_encoder("runs/dig")(["a.png"])         -> tokens and frames of each line

Images are paths, encoded bytes, arrays or pictures of Pillow, grey or colour, of any size, mixed.
They are treated as in training (`data/line_images.py`). One that cannot be used is named in its
result; the others do not suffer.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from dig_jax.data import buckets, transforms
from dig_jax.data.line_images import LineImage
from dig_jax.data.sizes import BadRecord
from dig_jax.interop.model import Model, open_model
from dig_jax.models.decoders.places import places
from dig_jax.models.decoders.search import Search
from dig_jax.text import Charset

WIDTHS = 4  # programs that a new set of lines may ask for; each costs a compilation
SLACK = 1.5  # a program may be this many times larger than needed, before another is compiled
PROGRAM_ROWS = 8  # of an export to onnx; what more lines need does not stay in a CPU's cache
BATCHES_AT_ONCE = 16  # lines that are sorted by width together


class Features(NamedTuple):
    """tokens f32[N, D] in reading order, frames f32[S, F] from left to right; padding is cut off.

    name: the path, or the number of the image. error: why there are none.
    """

    name: str
    tokens: np.ndarray
    frames: np.ndarray
    error: str = ""


class Character(NamedTuple):
    """left, right: where it stands, in px of the image as given."""

    char: str
    confidence: float
    left: float
    right: float


class Reading(NamedTuple):
    """One line as it was read.

    name: the path, or the number of the image. confidence: 0 to 1, the mean over the characters.
    characters: from left to right; the text of a right-to-left script is in the order of speech.
    error: why nothing could be read.
    """

    name: str
    text: str
    confidence: float
    characters: list[Character]
    error: str = ""


def load_encoder(source: Any, *, checkpoint: str = "best") -> Encoder:
    """The encoder of any run or export, a recogniser's included.

    source: a work folder or an export. checkpoint: of a run, "best" by its own measure (the last
    where it has none), or "last". FileNotFoundError or ValueError, in one sentence, for a folder
    that is not there or holds neither.
    """
    return Encoder(open_model(source, "encoder", checkpoint))


def load_reader(
    source: Any,
    *,
    checkpoint: str = "best",
    head: str | None = None,
    beam: int | None = None,
    lm: int | None = None,
    lm_weight: float | None = None,
    lm_bonus: float | None = None,
    texts: str | os.PathLike[str] | Iterable[str] | None = None,
) -> Reader:
    """The reader of a recogniser's run or export.

    source, checkpoint, errors: as for `load_encoder`. head: of a run that swept several, by default
    the one that validation chose. beam: readings of a line that are followed at once, 1 = the best
    class each time. lm: order of a character n-gram of `texts` that a CTC beam is scored with, 0 =
    none; score = ln p(reading) + lm_weight ln p_lm(reading) + lm_bonus characters. texts: lines of
    text, or the name of labelled records or of a .txt file; with them beam is 8 and lm 4, if
    nothing else is said. Without them, an export may bring an n-gram along and reads with it;
    others take the best classes. lm_weight is 0.2 and lm_bonus 0.4.

        load_reader("fraktur", texts="records/fraktur")
        load_reader("hands")            # with the n-gram that it brings along
        load_reader("hands", beam=1)    # without: faster
    """
    search = {"beam": beam, "lm": lm, "lm_weight": lm_weight, "lm_bonus": lm_bonus}
    return Reader(open_model(source, "reader", checkpoint, head), texts, **search)


class Encoder:
    """images -> `Features` of each. Made by `load_encoder`."""

    def __init__(self, model: Model):
        self.model = model
        self.lines = Lines(model, model.function())
        self.rows = model.preparation.height_px // model.encoder().patch[0]

    def __call__(self, images: Any, batch_size: int = 32) -> list[Features]:
        """Features of each image, in their order.

        images: one or several paths, encoded bytes, Pillow images or arrays [H,W] or [H,W,C],
        of any size, C from 1 to 4. One that cannot be used has an `error` and no features.
        """
        result = []
        for name, line, row in self.lines(named(images), batch_size):
            if isinstance(line, str):
                result.append(Features(name, np.zeros((0, 0)), np.zeros((0, 0)), line))
                continue
            columns = int(row["frame_length"])
            tokens = row["tokens"][: columns * self.rows]
            result.append(Features(name, tokens, row["frames"][:columns]))
        return result


class Reader:
    """`read` a few images, or `stream` any number of them. Made by `load_reader`."""

    def __init__(
        self,
        model: Model,
        texts: str | os.PathLike[str] | Iterable[str] | None = None,
        **search: Any,
    ):
        """texts: as for `load_reader`. search: options of `models.decoders.search.Search`."""
        if model.charset is None:
            raise ValueError("this model is an encoder, which reads no text: open it as Encoder")
        self.model = model
        self.charset: Charset = model.charset
        self.search = searching(model, self.charset, texts, **search)
        ask = model.ask(self.search.predict(model.method()))
        self.lines = Lines(model, ask, self.search.reading)
        self.frame_px = model.encoder().patch[1]

    def read(self, images: Any, batch_size: int = 32) -> list[Reading]:
        """A reading of each image, in their order. images: as for `Encoder`."""
        return list(self.stream(named(images), batch_size))

    def stream(self, images: Iterable[tuple[str, Any]], batch_size: int = 32) -> Iterator[Reading]:
        """The same of (name, image), one by one. Only a few batches are held at once. An image
        that is a BadRecord already keeps its error."""
        for name, line, row in self.lines(images, batch_size):
            if isinstance(line, str):
                yield Reading(name, "", 0.0, [], line)
                continue
            start = time.perf_counter()
            reading = self.reading(name, line, row)
            self.lines.seconds["text"] += time.perf_counter() - start
            yield reading

    def reading(self, name: str, line: LineImage, row: Mapping[str, np.ndarray]) -> Reading:
        """From a line of a reading, see `decoders`."""
        ids, sure, frames = (
            row[part][: int(row["length"])] for part in ("ids", "confidence", "frame")
        )
        px = self.frame_px * (line.width_px / line.pixels.shape[1])
        edges = np.clip(places(frames) * px, 0, line.width_px).tolist()
        letters = (self.charset.chars[i - 1] for i in ids.tolist())
        characters = [
            Character(char, each, left, right)
            for char, each, (left, right) in zip(letters, sure.tolist(), edges)
        ]
        return Reading(name, self.charset.decode(ids), float(row["line"]), characters)


def searching(
    model: Model,
    charset: Charset,
    texts: str | os.PathLike[str] | Iterable[str] | None,
    **options: Any,
) -> Search:
    """How a reader searches; an option that is None is its own. ValueError for what it cannot."""
    given = {name: value for name, value in options.items() if value is not None}
    if texts is not None:
        options = {"beam": 8, "lm": 4} | given
        if not options["lm"]:
            raise ValueError("texts are for an n-gram, and lm is 0: leave one of the two out")
    else:
        own = {} if given.get("beam") == 1 or "lm" in given else dict(model.search)
        options = own | given
        if given.get("lm"):
            raise ValueError(
                f"lm is {given['lm']} and there are no texts to learn it from: name labelled "
                "records or a .txt file, as in texts=records/mine"
            )
    for name in ("lm_weight", "lm_bonus"):
        if name in given and not options.get("lm"):
            raise ValueError(
                f"{name} is {given[name]} and there is no n-gram that it weighs: leave it out, "
                "or name texts, as in texts=records/mine"
            )
    if model.program is not None and options.get("beam", 1) > 1 and not model.by_ctc:
        raise ValueError(
            f"beam is {options['beam']}, and this export to onnx is a program that takes the best "
            "characters: load the run, or an export to safetensors"
        )
    if isinstance(texts, str | os.PathLike):
        from dig_jax.data import records  # most readers need none

        texts = records.texts_of(os.fspath(texts))
    return Search(charset, model.by_ctc, texts or (), **options)


class Lines:
    """Images of any size through one function of batches, with few compiled programs.

    each: what is kept of a line of what the function says, such as its text and not its frames.
    seconds: what was spent on "decode", "prepare", "compile", "network", by readers "text"; and of
    all threads together "compile_cpu".
    """

    def __init__(
        self,
        model: Model,
        function: Callable[..., Any],
        each: Callable[[Any], Any] = lambda row: row,
    ):
        self.model, self.function, self.each = model, jax.jit(function), each
        self.prepare, self.program = model.preparation, model.program
        self.weights = jax.device_put(model.weights, jax.local_devices()[0])
        self.multiple_px = model.multiple_px
        self.programs: dict[tuple[int, int], Any] = {}
        self.seconds: dict[str, float] = defaultdict(float)

    def __call__(
        self, images: Iterable[tuple[str, Any]], batch_size: int
    ) -> Iterator[tuple[str, LineImage | str, dict[str, np.ndarray]]]:
        """(name, line, what the function says of it), or (name, reason, {}) of a bad image."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give 1 or more")
        images = iter(images)
        while some := list(itertools.islice(images, BATCHES_AT_ONCE * batch_size)):
            lines = [self._prepared(image) for _, image in some]
            good = {i: line for i, line in enumerate(lines) if not isinstance(line, str)}
            rows = dict(zip(good, self._rows(list(good.values()), batch_size)))
            for i, ((name, _), line) in enumerate(zip(some, lines)):
                yield name, line, rows.get(i, {})

    def _prepared(self, image: Any) -> LineImage | str:
        try:
            if isinstance(image, BadRecord):
                raise image
            return self.model.prepared(image, self.seconds)
        except BadRecord as error:
            return str(error)

    def _rows(self, lines: Sequence[LineImage], batch_size: int) -> list[dict[str, np.ndarray]]:
        """What the function says of each line."""
        result: list[dict[str, np.ndarray]] = [{}] * len(lines)
        widths = [line.pixels.shape[1] for line in lines]
        plan = batches if self.program is None else narrow_batches
        for chosen, width_px in plan(widths, batch_size, self.multiple_px):
            found = self._run([lines[i].pixels for i in chosen], width_px, batch_size)
            start = time.perf_counter()
            for row, i in enumerate(chosen):
                result[i] = self.each({name: value[row] for name, value in found.items()})
            self.seconds["text"] += time.perf_counter() - start
        return result

    def _run(self, pixels: Sequence[np.ndarray], width_px: int, batch_size: int) -> dict[str, Any]:
        rows, width_px = self._shape(len(pixels), width_px, batch_size)
        shape = (rows, self.prepare.height_px, width_px, self.prepare.channels)
        image = np.full(shape, transforms.PAPER, np.uint8)
        width: np.ndarray = np.ones(rows, np.int32)
        for row, line in enumerate(pixels):
            image[row, :, : line.shape[1]], width[row] = line, line.shape[1]
        batch = {"image": image, "width": width}
        start, cpu = time.perf_counter(), time.process_time()
        if self.program is not None:
            found = self.program(batch)
            self.seconds["network"] += time.perf_counter() - start
            return found
        if (rows, width_px) not in self.programs:
            lowered = self.function.lower(self.weights, batch)
            self.programs[rows, width_px] = lowered.compile()
            self.seconds["compile"] += time.perf_counter() - start
            self.seconds["compile_cpu"] += time.process_time() - cpu
            start = time.perf_counter()
        found = jax.device_get(self.programs[rows, width_px](self.weights, batch))
        self.seconds["network"] += time.perf_counter() - start
        return found

    def _shape(self, count: int, width_px: int, batch_size: int) -> tuple[int, int]:
        """Rows and width of the program for `count` lines: one that is there, if it fits well."""
        if self.program is not None:  # takes any shape
            return count, width_px
        rows = min(batch_size, 1 << math.ceil(math.log2(count)))
        fits = [p for p in self.programs if p[0] >= rows and p[1] >= width_px]
        best = min(fits, key=math.prod, default=None)
        if best is not None and math.prod(best) <= SLACK * rows * width_px:
            return best
        return rows, width_px


def batches(
    widths: Sequence[int], batch_size: int, multiple_px: int = buckets.MULTIPLE_PX
) -> Iterator[tuple[np.ndarray, int]]:
    """(numbers of lines, width in px of their batch), each line once, narrow ones first."""
    if not len(widths):
        return
    px = np.asarray(widths)
    order = np.argsort(px, kind="stable")
    count = min(WIDTHS, -(-len(px) // batch_size))
    edges = buckets.bounds(px, count, multiple_px)
    bucket = np.searchsorted(edges, px[order])
    for number, edge in enumerate(edges.tolist()):
        lines = order[bucket == number]
        for at in range(0, len(lines), batch_size):
            yield lines[at : at + batch_size], edge


def narrow_batches(
    widths: Sequence[int], batch_size: int, multiple_px: int
) -> Iterator[tuple[np.ndarray, int]]:
    """The same for a program that takes any shape: small batches, each as wide as its lines."""
    order, rows = np.argsort(widths, kind="stable"), min(batch_size, PROGRAM_ROWS)
    for at in range(0, len(order), rows):
        lines = order[at : at + rows]
        yield lines, -(-int(np.max(np.asarray(widths)[lines])) // multiple_px) * multiple_px


def named(images: Any) -> Iterator[tuple[str, Any]]:
    """(name, image) of several images, or of one alone. An array [H,W,C] with C from 1 to 4 is one
    image, any other of three axes a stack [n,H,W], and one of names or images is several."""
    shape = getattr(images, "shape", None)  # of arrays, not of Pillow's pictures
    alone = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)
    if shape is not None and not alone:
        several = len(shape) == 1 and np.asarray(images).dtype.kind not in "biufc"
        alone = not several and (len(shape) < 3 or len(shape) == 3 and shape[2] in (1, 2, 3, 4))
    for number, image in enumerate([images] if alone else images):
        path = isinstance(image, str | os.PathLike)
        yield (str(image) if path else f"image {number}"), image
