"""Writes a record set in a layout of others.

    python -m dig_jax.tools.export_records --records=records/lines --format=lmdb --output=LMDB

    python -m dig_jax.tools.export_records --records=records/lines --format=tfds

Formats: lmdb (one database a split in Clova's layout: num-samples, image-000000001,
label-000000001; needs the extra lmdb). Images are written byte for byte as the records hold them.
SOURCE.md keeps source, licence and attribution; make_records --source=lmdb reads it all back.
tfds (two files of metadata beside the records, so that tfds.builder_from_directory opens them and
as_data_source reads them; no record is copied).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from absl import flags

from dig_jax.tools import program

FLAGS = flags.FLAGS
BATCH = 1024
FORMATS = ("lmdb", "tfds")


def to_lmdb(records: Path, output: Path) -> dict[str, int]:
    """Writes output/SPLIT/data.mdb for each split, and output/SOURCE.md; {split: records}.

    Beside the keys of the layout, id-000000001 keeps the id of a record. The folder appears whole
    at the end. Raises FileExistsError where it exists, ValueError for a record that is damaged.
    """
    from dig_jax.data.extras import need
    from dig_jax.data.manifest import read_manifest
    from dig_jax.data.record_set import RecordSet

    lmdb = need("lmdb", "lmdb")
    manifest = read_manifest(records)
    unfinished = output.with_name(f".{output.name}.unfinished")
    if output.exists():
        raise FileExistsError(f"--output={output} exists: choose another, or delete it.")
    shutil.rmtree(unfinished, ignore_errors=True)
    counts = {}
    try:
        for split in manifest["splits"]:
            record_set = RecordSet(records, split)
            folder = unfinished / split
            folder.mkdir(parents=True)
            held = sum((records / shard).stat().st_size for shard in record_set.entry["shards"])
            # An upper bound on pages of 4 KiB; the file grows to what it needs only.
            size = 2 * held + (64 << 20) + 12_288 * len(record_set)
            with lmdb.open(str(folder), map_size=size, lock=False) as env:
                for first in range(0, len(record_set), BATCH):
                    rows = range(first, min(first + BATCH, len(record_set)))
                    with env.begin(write=True) as db:
                        for row, record in zip(rows, record_set.read(rows)):
                            if record.error:
                                where = record_set.where(row)
                                raise ValueError(f"{where} cannot be read: {record.error}")
                            db.put(b"image-%09d" % (row + 1), record.image)
                            db.put(b"id-%09d" % (row + 1), record.id.encode())
                            if record.text is not None:
                                db.put(b"label-%09d" % (row + 1), record.text.encode())
                with env.begin(write=True) as db:
                    db.put(b"num-samples", b"%d" % len(record_set))
            counts[split] = len(record_set)
        about = [
            f"- {name}: {manifest[name.lower()]}\n"
            for name in ("Source", "Licence", "Attribution")
            if manifest.get(name.lower())
        ]
        text = f"# {manifest['name']}\n\n{''.join(about)}"
        (unfinished / "SOURCE.md").write_text(text, encoding="utf-8")
        unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return counts


def to_tfds(records: Path) -> dict[str, int]:
    """Writes dataset_info.json and features.json into a records folder; {split: records}.

    The features are image, text (None where a record has no label) and id.
    """
    import tensorflow_datasets as tfds

    from dig_jax.data.manifest import read_manifest

    manifest = read_manifest(records)
    name = re.sub(r"\W+", "_", manifest["name"]).strip("_").lower() or "lines"
    template = tfds.core.ShardedFileTemplate(
        data_dir=records,
        template="{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
        dataset_name=name,
        filetype_suffix="array_record",
    )
    tfds.folder_dataset.write_metadata(
        data_dir=records,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, manifest.get("channels", 1))),
                "text": tfds.features.Text(),
                "id": tfds.features.Text(),
            }
        ),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=entry["shard_counts"],
                num_bytes=sum((records / shard).stat().st_size for shard in entry["shards"]),
                filename_template=template.replace(split=split),
            )
            for split, entry in manifest["splits"].items()
        ],
        filename_template=template,
        description=f"Text lines: {manifest['name']}",
        homepage=str(manifest.get("source", "")),
        license=str(manifest.get("licence", "")),
        citation=str(manifest.get("attribution", "")),
        check_data=False,  # with TensorFlow only
    )
    return {split: entry["count"] for split, entry in manifest["splits"].items()}


def main(_: list[str]) -> None:
    if not FLAGS.records or (FLAGS.format == "lmdb") != bool(FLAGS.output):
        raise ValueError("give --records and, for lmdb, --output: a record set, a new folder.")
    records = program.path(FLAGS.records, "--records")
    if FLAGS.format == "lmdb":
        output = program.path(FLAGS.output, "--output")
        counts = to_lmdb(records, output)
    else:
        output, counts = records, to_tfds(records)
    told = ", ".join(f"{split} {count}" for split, count in counts.items())
    print(f"{output}: {sum(counts.values())} records: {told}")


if __name__ == "__main__":
    flags.DEFINE_string("records", None, "the record set to write elsewhere.")
    flags.DEFINE_string("output", None, "lmdb: the folder to make.")
    flags.DEFINE_enum("format", "lmdb", FORMATS, "the layout to write.")
    program.run(main)
