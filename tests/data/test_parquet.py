"""Parquet and Arrow tables, as the Hugging Face hub and pandas write them."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.data.made import make, png, refused


def hub(rows, names=None):
    """A table as the hub has it: images as {bytes, path}, features in the schema's metadata."""
    image = [{"bytes": data, "path": f"{i}.png"} for i, (data, _) in enumerate(rows)]
    table = pa.table(
        {
            "image": image,
            "label" if names else "text": [text for _, text in rows],
            "other": [1.5] * len(rows),
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


@pytest.mark.slow
def test_parquet_of_the_hub(tmp_path):
    (tmp_path / "in" / "data").mkdir(parents=True)
    for split, first in (("train", 0), ("validation", 100), ("test", 200)):
        table = hub(
            [(png(first + i), f"wörd {first + i}") for i in range(70 if split == "train" else 2)]
        )
        pyarrow.parquet.write_table(
            table, tmp_path / "in" / "data" / f"{split}-00000-of-00001.parquet"
        )
    (tmp_path / "in" / "SOURCE.md").write_text("- Licence: MIT\n")
    made = make(tmp_path / "out", "parquet", f"--input={tmp_path / 'in'}", "--codec=png")
    assert len(made.rows) == 74 and made.reasons == {} and made.manifest["licence"] == "MIT"
    assert made.rows["data/train-00000-of-00001.parquet#69"] == ("train", png(69), "wörd 69")
    assert made.rows["data/validation-00000-of-00001.parquet#1"] == (
        "validation",
        png(101),
        "wörd 101",
    )


@pytest.mark.slow
def test_classes_own_columns_and_bad_rows(tmp_path):
    rows = [(png(0), 1), (png(1), 0), (b"no image", 0), (None, 1), (png(2), 7), (png(3), None)]
    pyarrow.parquet.write_table(hub(rows, ["क", "ख"]), tmp_path / "x.parquet")
    made = make(tmp_path / "out", "parquet", f"--input={tmp_path / 'x.parquet'}")
    assert made.texts == {
        "x.parquet#0": "ख",
        "x.parquet#1": "क",
        "x.parquet#4": None,
        "x.parquet#5": None,
    }
    assert made.reasons == {
        "not an image": 1,
        "row without an image": 1,
        "class without a name (image kept, unlabelled)": 1,
    }
    numbers = pa.table({"image": [png(1), png(2)], "text": [3.5, float("nan")]})
    pyarrow.parquet.write_table(numbers, tmp_path / "n.parquet")
    made = make(tmp_path / "numbers", "parquet", f"--input={tmp_path / 'n.parquet'}")
    assert made.texts == {"n.parquet#0": "3.5", "n.parquet#1": None}
    table = pa.table({"Bild": [png(1)], "Text der Zeile": ["eins"]})
    pyarrow.parquet.write_table(table, tmp_path / "y.parquet")
    flags = ("--image_column=bild", "--text_column=Text der Zeile")
    made = make(tmp_path / "own", "parquet", f"--input={tmp_path / 'y.parquet'}", *flags)
    assert made.texts == {"y.parquet#0": "eins"}
    told = refused(tmp_path / "z", "parquet", f"--input={tmp_path / 'y.parquet'}")
    assert "no column of images" in told and "Bild" in told


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_of_save_to_disk(tmp_path, kind):
    folder = tmp_path / "in" / "test"
    folder.mkdir(parents=True)
    table = hub([(png(i), f"t {i}") for i in range(5)])
    write = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    for name in ("data-00000-of-00001.arrow", "cache-0815.arrow"):
        with write(str(folder / name), table.schema) as out:
            out.write_table(table, max_chunksize=2)
    made = make(tmp_path / "out", "parquet", f"--input={tmp_path / 'in'}", "--codec=png")
    assert made.texts == {f"test/data-00000-of-00001.arrow#{i}": f"t {i}" for i in range(5)}
    assert set(made.splits.values()) == {"test"} and made.reasons == {}


@pytest.mark.slow
def test_damaged_tables_are_counted(tmp_path):
    pyarrow.parquet.write_table(hub([(png(i), "x") for i in range(3)]), tmp_path / "a.parquet")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "b.parquet").write_bytes(data[: len(data) // 2])
    (tmp_path / "c.arrow").write_bytes(b"nothing")
    made = make(tmp_path / "out", "parquet", f"--input={tmp_path}")
    assert len(made.rows) == 3 and sum(made.reasons.values()) == 2
    assert all(reason.startswith("table is damaged") for reason in made.reasons)
    (tmp_path / "none").mkdir()
    assert "holds no .parquet" in refused(tmp_path / "x", "parquet", f"--input={tmp_path / 'none'}")
