"""Source pairs: every layout is recognised, told, and read with counts that add up."""

import json

import pytest

from tests.data.made import make, png, refused


def put(root, files):
    """{path: text, bytes, or the seed of a picture}."""
    for name, what in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        data = png(what) if isinstance(what, int) else what
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def read(root, files, *flags, source="pairs"):
    return make(root / "out", source, f"--input={put(root / 'in', files)}", *flags)


def test_an_image_and_its_gt_txt(tmp_path):
    made = read(tmp_path, {
        "p1/a.png": 1, "p1/a.gt.txt": "eins\n", "p1/a.bin.png": 2, "b.nrm.png": 3, "b.gt.txt": "\ufeffzwei\r\n",
        "c.png": 4, "d.gt.txt": "nobody", "e.png": 5, "e.gt.txt": "two\nlines\n", "f.png": 6,
        "f.gt.txt": b"\xff\xfe\xfa", "g.png": 7, "g.gt.txt": "",
    })  # fmt: skip
    assert made.texts == {
        "p1/a.png": "eins", "b.nrm.png": "zwei", "c.png": None, "e.png": None, "f.png": None, "g.png": None,
    }  # fmt: skip
    assert made.reasons == {
        "another picture of a line (the plain one is kept)": 1,
        "text without an image": 1,
        "text of more than one line (image kept, unlabelled)": 1,
        "list is UTF-16, not UTF-8 (none of it is read)": 1,
        "empty label (image kept, unlabelled)": 1,
    }
    assert "read as 6 .gt.txt beside images" in made.printed


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("gt.txt", "a b.png\tone two\nsub/c.JPG\tthree\n"),
        ("gt.txt", "a b.png one two\r\nsub/c.JPG three\r\n"),
        ("Challenge_GT.txt", '\ufeffa b.png, "one two"\nsub/c.JPG, "three"\n'),
        ("labels.csv", "filename,words\na b.png,one two\nsub/c.JPG,three\n"),
        ("labels.csv", '\ufeff"image";"text"\r\n"a b.png";"one two"\r\n"sub/c.JPG";"three"\r\n'),
        ("labels.tsv.csv", ",IDENTITY,FILENAME\n0,one two,a b.png\n1,three,sub/c.JPG\n"),
        ("x.tsv", "file_name\ttranscription\na b.png\tone two\nsub/c.JPG\tthree\n"),
        ("x.csv", "path|label|more\na b.png|one two|\nsub/c.JPG|three|\n"),
        ("x.tsv", "file\ttext\na b.png\tone two\nsub/c.JPG\tthree\n".encode("utf-16")),
        (
            "metadata.jsonl",
            '{"file_name": "a b.png", "text": "one two"}\n\n{"text": "three", "file_name": "sub/c.JPG"}',
        ),
    ],
)
def test_lists_and_tables_of_many_hands(tmp_path, file, text):
    made = read(tmp_path, {"a b.png": 1, "sub/c.JPG": 2, file: text})
    assert made.texts == {"a b.png": "one two", "sub/c.JPG": "three"} and made.reasons == {}


def test_what_pandas_writes(tmp_path):
    """Quotes, separators and line ends inside a field; pandas itself is not needed."""
    rows = 'image,text\na.png,"say ""hi"", now"\nb.png,"two\nlines"\nc.png,\nd.png\n\ngone.png,x\na.png,again\n'
    made = read(tmp_path, {"a.png": 1, "b.png": 2, "c.png": 3, "d.png": 4, "x.csv": rows})
    assert made.texts == {
        "a.png": 'say "hi", now',
        "b.png": "two lines",
        "c.png": None,
        "d.png": None,
    }
    assert made.reasons == {
        "row with too few columns": 1, "label names a missing image": 1,
        "second label for one image (the first is kept)": 1, "empty label (image kept, unlabelled)": 1,
    }  # fmt: skip


def test_columns_and_splits_are_named_or_recognised(tmp_path):
    files = {"a.png": 1, "b.png": 2, "x.csv": "wo,was,split\na.png,eins,train\nb.png,zwei,val\n"}
    root = put(tmp_path / "in", files)
    told = refused(tmp_path / "out", "pairs", f"--input={root}")
    assert "'wo,was,split'" in told and "--image_column" in told
    assert "if it has no header, write one, or use labels.tsv" in told
    made = make(
        tmp_path / "out", "pairs", f"--input={root}", "--image_column=wo", "--text_column=was"
    )
    assert made.texts == {"a.png": "eins", "b.png": "zwei"}
    assert made.splits == {"a.png": "train", "b.png": "validation"}


def test_a_split_that_is_no_name_costs_no_image(tmp_path):
    rows = "image,text,split\na.png,x,dev\nb.png,y,what is this?\nc.png,z,\n"
    made = read(tmp_path, {"a.png": 1, "b.png": 2, "c.png": 3, "x.csv": rows})
    assert made.splits == {"a.png": "validation", "b.png": "train", "c.png": "train"}
    assert made.reasons == {"split that is no name: the usual one instead (image kept)": 1}


def test_one_file_of_several_and_lists_of_splits(tmp_path):
    files = {
        "a.png": 1,
        "b.png": 2,
        "one.txt": "a.png x\nb.png y",
        "two.txt": "a.png z",
        "splits/test.txt": "a.png",
    }
    root = put(tmp_path / "in", files)
    made = make(tmp_path / "out", "pairs", f"--input={root / 'two.txt'}")
    assert made.texts == {"a.png": "z"} and made.splits == {"a.png": "test"}
    assert made.reasons == {"image in no split": 1}
    both = make(tmp_path / "both", "pairs", f"--input={root}")
    assert both.reasons["second label for one image (the first is kept)"] == 1


def test_labels_one_folder_down(tmp_path):
    files = {
        "p1/a.png": 1,
        "p1/labels.tsv": "a.png\tone\n",
        "p2/b.png": 2,
        "p2/labels.tsv": "b.png\ttwo\nc.png\tx\n",
    }
    made = read(tmp_path, files)
    assert made.texts == {"p1/a.png": "one", "p2/b.png": "two"}
    assert made.reasons == {"label names a missing image": 1}
    assert "read as 2 labels.tsv" in made.printed


def test_the_folders_of_the_field(tmp_path):
    """The layouts that people brought, as they stand in the cases of the issue."""
    for name, files in {
        "gt_txt": {"a.png": 1, "b.png": 2, "gt.txt": "a.png\tone\nb.png\ttwo\n"},
        "nested": {
            "p1/a.png": 1,
            "p1/labels.tsv": "a.png\tone\n",
            "p2/b.png": 2,
            "p2/labels.tsv": "b.png\ttwo\n",
        },
        "pairs": {"a.png": 1, "a.gt.txt": "one\n", "b.png": 2, "b.gt.txt": "two\n"},
    }.items():
        made = read(tmp_path / name, files)
        assert sorted(made.texts.values()) == ["one", "two"] and made.reasons == {}


def test_two_layouts_at_once_are_told(tmp_path):
    files = {"a.png": 1, "a.gt.txt": "pair", "x.csv": "image,text\na.png,table\n"}
    made = read(tmp_path, files)
    assert made.texts == {"a.png": "pair"}
    assert any("1 tables with a header" in note for note in made.manifest["notes"])
    assert make(tmp_path / "t", "pairs", f"--input={tmp_path / 'in'}", "--layout=table").texts == {
        "a.png": "table"
    }


def test_odd_lines_are_named(tmp_path):
    lines = [
        {"file_name": "a.png", "text": "x"}, {"file_name": "b.png", "text": None}, {"file_name": 7, "text": "x"},
        {"file_name": "c.png", "text": ["x"]}, {"text": "x"}, [], {"file_name": "../up.png", "text": "x"},
        {"file_name": "d.png", "text": "\ud800"}, {"file_name": "e.png", "text": 7},
    ]  # fmt: skip
    text = "\n".join(map(json.dumps, lines)) + "\n{broken\n" + "[" * 100_000
    made = read(tmp_path, {**{f"{n}.png": i for i, n in enumerate("abcde")}, "x.jsonl": text})
    assert made.texts == {"a.png": "x", "b.png": None, "c.png": None, "d.png": None, "e.png": "7"}
    assert made.reasons == {
        "line without an image and a text": 4, "line that is no JSON in UTF-8": 2, "path leads out of the folder": 1,
        "label is not UTF-8 (image kept, unlabelled)": 1,
    }  # fmt: skip
    made = read(
        tmp_path / "list",
        {"a.png": 1, "b.png": 2, "gt.txt": b"a.png \xff\xff\nno image\nb.png x\nb.png"},
    )
    assert made.texts == {"a.png": None, "b.png": "x"}
    assert made.reasons == {
        "label is not UTF-8 (image kept, unlabelled)": 1, "line without the name of an image": 1,
        "second label for one image (the first is kept)": 1,
    }  # fmt: skip


def test_refusals(tmp_path):
    put(tmp_path / "in", {"a.png": 1})
    told = refused(tmp_path / "out", "pairs", f"--input={tmp_path / 'in'}")
    assert "holds no labels" in told and "--source=folder" in told
    assert "--layout is 'x'" in refused(
        tmp_path / "out", "pairs", f"--input={tmp_path}", "--layout=x"
    )
    assert "must be a folder" in refused(tmp_path / "out", "pairs", "--input=/nowhere")


def test_a_link_that_leads_out_is_not_read(tmp_path):
    put(tmp_path / "outside", {"secret.png": 7})
    root = put(tmp_path / "in", {"a.png": 1, "a.gt.txt": "eins", "b.gt.txt": "secret"})
    (root / "b.png").symlink_to("../outside/secret.png")
    made = make(tmp_path / "out", "pairs", f"--input={root}")
    assert made.texts == {"a.png": "eins"}
    assert made.reasons == {"link leads out of the folder": 2}  # the image, and its text


def test_an_image_that_a_table_names_without_a_text_is_a_record(tmp_path):
    """It need not have the suffix of an image; a later file may give the text."""
    rows = [{"image": "a.scan", "text": None}, {"image": "b.scan", "text": None}]
    files = {"a.scan": 1, "b.scan": 2, "x.jsonl": "\n".join(map(json.dumps, rows))}
    more = json.dumps({"image": "b.scan", "text": "zwei"})
    made = read(tmp_path, {**files, "y.jsonl": more})
    assert made.texts == {"a.scan": None, "b.scan": "zwei"} and made.reasons == {}
