"""Source: a TFDS builder with an image and a text or class label (mnist, svhn_cropped, emnist, or
one of your own).

    --input=DIR                  a prepared version (dataset_info.json in it), or a folder above it
    --builder=mnist --input=DIR  a registered builder, prepared under DIR (downloads it)
    --builder=my.module:Lines    a class of yours
    --image_column, --text_column  features, where the first of their kind are not the ones

ArrayRecord and TFRecord files are read without TensorFlow. Images stay the encoded bytes that TFDS
stored; a class becomes its name. Splits keep their names.
"""

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dig_jax.data.examples import Example, Report, Skipped, shown
from dig_jax.data.images import Item, Store, stored
from dig_jax.data.split_names import split_named
from dig_jax.data.tables import TEXT_COLUMNS
from dig_jax.data.writer import example_class

BATCH = 256
MAX_RECORD_BYTES = 512 << 20
OWN_CLASSES = "tensorflow_datasets."


def examples(
    *,
    report: Report,
    input: str | None = None,
    builder: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[Example]:
    """Yields (split, image bytes, text or None, "split/number") in the order of the files.

    Raises FileNotFoundError where nothing is prepared, ValueError for a builder without an image or
    several builders in one folder, RuntimeError where TFDS cannot prepare it.
    """
    made = _build(builder, input) if builder else _open(input)
    info = made.info
    image = find_feature(info.features, "Image", image_column)
    text = find_text(info.features, text_column)
    names = list(info.splits)
    report.total = sum(info.splits[name].num_examples for name in names)
    licence = getattr(info.redistribution_info, "license", "")
    about = {
        "source": f"TFDS {info.full_name}{f', {info.homepage}' if info.homepage else ''}",
        "licence": licence,
        "attribution": " ".join((info.citation or "").split()),
    }
    report.about.update({key: shown(value, 2000) for key, value in about.items() if value})
    report.notes.append(f"features: image '{image}', text {repr(text) if text else 'none'}")
    classes = info.features[text] if text and _kind(info.features[text]) == "ClassLabel" else None
    labels = list(classes.names) if classes is not None and classes.names else None

    def found() -> Iterator[Item | Skipped]:
        for name in names:
            split, number = split_named(name, name), 0
            info_of = info.splits[name]
            for file, count in zip(info_of.filepaths, info_of.shard_lengths):
                read = 0
                for value in read_shard(Path(file)):
                    number, read = number + 1, read + 1
                    id = f"{name}/{number - 1:07d}"
                    yield from items_of(value, split, id, image, text, labels)
                if read < count:
                    number += count - read
                    yield Skipped(Path(file).name, "shard is missing or damaged", count - read)

    yield from stored(found(), store or Store(), report, workers)


def _open(input: str | None) -> Any:
    """The builder of the one prepared version in a folder."""
    import tensorflow_datasets as tfds

    root = Path(input or "")
    if not input or not root.is_dir():
        raise FileNotFoundError(f"--input is '{input or ''}', but must be a prepared TFDS folder.")
    here = root / "dataset_info.json"
    found = [here] if here.is_file() else sorted(root.glob("**/dataset_info.json"))
    if not found:
        raise FileNotFoundError(f"--input={input} holds no dataset_info.json: nothing is prepared.")
    if len(found) > 1:
        several = ", ".join(shown(str(file.parent)) for file in found[:5])
        raise ValueError(f"--input={input} holds several prepared sets: name one of {several}.")
    try:
        _check_classes(found[0].parent / "features.json")
        made = tfds.builder_from_directory(found[0].parent)
        for name in made.info.splits:
            split = made.info.splits[name]
            # Template and data may lead anywhere: only files in the folder are read.
            for file in split.filepaths:
                if Path(file).parent.resolve() != found[0].parent.resolve():
                    raise ValueError(f"it names {file}, which lies outside the folder")
            if any(count < 0 for count in split.shard_lengths):
                raise ValueError("a shard of fewer than no examples")
        made.info.features.items()
    except Exception as error:  # of any JSON: KeyError, ParseError, AttributeError ...
        told = shown(" ".join(str(error).split()), 200)
        raise ValueError(f"{found[0].parent} cannot be opened by TFDS: {told}") from error
    return made


def _check_classes(file: Path) -> None:
    """ValueError where features.json names a class outside TFDS, whose module would be imported."""
    stack = [json.loads(file.read_text("utf-8"))] if file.is_file() else []
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            for key in ("pythonClassName", "type"):
                name = value.get(key)
                if isinstance(name, str) and "." in name and not name.startswith(OWN_CLASSES):
                    raise ValueError(f"features.json names the class {name}, which is not TFDS's")
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def _build(name: str, data_dir: str | None) -> Any:
    """Prepares a builder as ArrayRecord, or finds it prepared."""
    import tensorflow_datasets as tfds

    module, _, attribute = name.partition(":")
    options = {"data_dir": data_dir, "file_format": "array_record"}
    try:
        if attribute:
            made = getattr(importlib.import_module(module), attribute)(**options)
        else:
            made = tfds.builder(name, **options)
        made.download_and_prepare()
    except Exception as error:
        told = shown(" ".join(str(error).split()), 300)
        raise RuntimeError(f"--builder={name} cannot be prepared: {told}") from error
    return made


def _kind(feature: Any) -> str:
    return type(feature).__name__


def find_feature(features: Any, kind: str, name: str | None) -> str:
    """The feature of this name, or the first of this kind. ValueError that lists what there is."""
    every = {key: _kind(feature) for key, feature in features.items()}
    known = ", ".join(f"{key} ({value})" for key, value in every.items())
    if name:
        if name not in every:
            raise ValueError(f"there is no feature '{name}'; there are: {known}.")
        return name
    found = next((key for key, value in every.items() if value == kind), None)
    if found is None:
        raise ValueError(f"there is no feature of the kind {kind}; there are: {known}.")
    return found


def find_text(features: Any, name: str | None) -> str | None:
    """The text: the feature of this name, a Text or ClassLabel of a usual name, or the first."""
    if name:
        return find_feature(features, "Text", name)
    every = {
        key: _kind(feature)
        for key, feature in features.items()
        if _kind(feature) in ("Text", "ClassLabel") and key != "id"
    }
    usual = [key for wanted in TEXT_COLUMNS for key in every if key.lower() == wanted]
    texts = [key for key, value in every.items() if value == "Text"]
    return next(iter([*usual, *texts, *every]), None)


def items_of(
    value: bytes, split: str, id: str, image: str, text: str | None, labels: list[str] | None
) -> Iterator[Item | Skipped]:
    """The record of one tf.Example, and what is left out of it."""
    try:
        feature = example_class().FromString(value).features.feature
    except Exception:
        yield Skipped(id, "not a tf.Example message")
        return
    images = feature[image].bytes_list.value
    if not images:
        yield Skipped(id, "example without an image")
        return
    if "id" in feature and feature["id"].bytes_list.value:
        id = shown(feature["id"].bytes_list.value[0].decode("utf-8", "replace"), 1000)
    label = None
    if text:
        texts, numbers = feature[text].bytes_list.value, feature[text].int64_list.value
        if texts:
            try:
                label = texts[0].decode("utf-8")
            except UnicodeDecodeError:
                yield Skipped(id, "label is not UTF-8 (image kept, unlabelled)")
        elif numbers and numbers[0] >= 0:  # TFDS writes -1 for examples without a label
            if labels is None or numbers[0] < len(labels):
                label = labels[numbers[0]] if labels else str(numbers[0])
            else:
                yield Skipped(id, "class without a name (image kept, unlabelled)")
    yield split, bytes(images[0]), label, id


def read_shard(file: Path) -> Iterator[bytes]:
    """The messages of an ArrayRecord or TFRecord file, up to where it is damaged."""
    if not file.is_file():
        return
    if ".tfrecord" in file.name:
        yield from read_tfrecord(file)
        return
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(file))
        count = reader.num_records()
    except (RuntimeError, ValueError, OSError):
        return
    for first in range(0, count, BATCH):
        rows = list(range(first, min(first + BATCH, count)))
        try:
            yield from reader.read(rows)
        except (RuntimeError, ValueError, IndexError):
            for row in rows:
                try:
                    yield reader.read([row])[0]
                except (RuntimeError, ValueError, IndexError):
                    yield b"\xff"  # no message: named as one that cannot be read


def read_tfrecord(file: Path) -> Iterator[bytes]:
    """Length u64, its CRC u32, data, CRC u32, again and again. The CRCs are not looked at: damage
    shows when the message or the image is decoded."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        while len(head := opened.read(12)) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            if length > min(MAX_RECORD_BYTES, size - opened.tell()):
                return
            data = opened.read(length)
            if len(data) < length or len(opened.read(4)) < 4:
                return
            yield data
