"""Handwriting sets in their own layouts, on folders made after their descriptions."""

import cv2
import numpy as np
import pytest

from tests.data.made import make, picture, png, refused
from tests.data.test_pairs import put

IAM_LINES = """\
#--- lines.txt ---------------------------------------------------------------#
#
# format: a01-000u-00 ok 154 19 408 746 1663 91 A|MOVE|to|stop|Mr.|Gaitskell|from
#
a01-000u-00 ok 154 19 408 746 1661 89 A|MOVE|to|stop|Mr.|Gaitskell|from
a01-000u-01 err 156 19 395 932 1850 105 nominating|any|more|Labour|life|Peers
b02-013-00 ok 170 20 10 20 30 40 is|to|be|made|at|a|meeting
c03-000a-00 ok 1 2 3 4 5 6 lost
d04-001-00 ok 154 19
e05-001-00 ok 154 19 1 2 3 4 nowhere|in|a|split
"""
IAM_WORDS = """\
# format: a01-000u-00-00 ok 154 1 408 768 27 51 AT A
a01-000u-00-00 ok 154 408 768 27 51 AT A
a01-000u-00-01 ok 154 507 766 213 48 NN MOVE
a01-000u-01-00 err 154 1 2 3 4 VB nominating
"""


@pytest.fixture
def iam(tmp_path):
    lines = {f"lines/{id[:3]}/{id[:-3]}/{id}.png": i for i, id in enumerate(
        ("a01-000u-00", "a01-000u-01", "b02-013-00", "d04-001-00", "e05-001-00", "f06-001-00"))}  # fmt: skip
    words = {f"words/{id[:3]}/{id[:-6]}/{id}.png": i for i, id in enumerate(
        ("a01-000u-00-00", "a01-000u-00-01", "a01-000u-01-00"))}  # fmt: skip
    files = {"ascii/lines.txt": IAM_LINES, "ascii/words.txt": IAM_WORDS, "splits/train.uttlist": "a01-000u\n",
             "splits/test.uttlist": "b02-013\nd04-001\n", "splits/validation.uttlist": "c03-000a\na01-000u\n"}  # fmt: skip
    return put(tmp_path / "in", {**lines, **words, **files})


def test_iam_lines_with_the_aachen_splits(iam, tmp_path):
    made = make(tmp_path / "out", "iam", f"--input={iam}", "--codec=png")
    assert made.texts == {
        "a01-000u-00": "A MOVE to stop Mr. Gaitskell from",
        "a01-000u-01": "nominating any more Labour life Peers",
        "b02-013-00": "is to be made at a meeting",
    }
    assert made.splits == {
        "a01-000u-00": "train",
        "a01-000u-01": "train",
        "b02-013-00": "test",
    }
    assert (made.image("b02-013-00") == picture(2)).all()
    assert made.reasons == {
        "listed in two splits (the first is kept)": 1, "transcription without an image": 1, "in no split": 1,
        "line without the 9 fields of lines.txt": 1, "image without a transcription": 1,
    }  # fmt: skip
    ok = make(tmp_path / "ok", "iam", f"--input={iam}", "--segmentation=ok")
    assert list(ok.rows) == ["a01-000u-00", "b02-013-00"]


def test_iam_words_and_lists_of_lines(iam, tmp_path):
    made = make(tmp_path / "out", "iam", f"--input={iam}", "--level=word")
    assert made.texts == {"a01-000u-00-00": "A", "a01-000u-00-01": "MOVE"}
    assert made.reasons["word segmented badly (--segmentation=all keeps it)"] == 1
    every = make(tmp_path / "all", "iam", f"--input={iam}", "--level=word", "--segmentation=all")
    assert len(every.rows) == 3
    for file in (iam / "splits").iterdir():
        file.unlink()
    put(
        iam,
        {
            "task/trainset.txt": "a01-000u-00\n",
            "task/validationset1.txt": "a01-000u-01",
            "task/validationset2.txt": "b02-013-00",
        },
    )
    made = make(tmp_path / "task", "iam", f"--input={iam}")
    assert made.splits == {
        "a01-000u-00": "train",
        "a01-000u-01": "validation",
        "b02-013-00": "validation",
    }
    words = make(tmp_path / "words", "iam", f"--input={iam}", "--level=word", "--segmentation=all")
    assert words.splits["a01-000u-01-00"] == "validation"


CVL_XML = """<?xml version="1.0" encoding="ISO-8859-1"?>
<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2010-03-19"><Page imageFilename="0001-1.tif">
<AttrRegion attrType="3" fontType="1" id="0001-1-printed"><AttrRegion attrType="1" fontType="1" text="printed" id="p"/></AttrRegion>
<AttrRegion attrType="3" fontType="2" id="0001-1-hand">
 <AttrRegion attrType="2" fontType="2" id="0001-1-0">
  <AttrRegion attrType="1" fontType="2" text="große" id="0001-1-0-1"><minAreaRect><Point x="90" y="1"/></minAreaRect></AttrRegion>
  <AttrRegion attrType="1" fontType="2" text="Imagine" id="0001-1-0-0"><minAreaRect><Point x="10" y="1"/></minAreaRect></AttrRegion>
 </AttrRegion></AttrRegion></Page></PcGts>""".encode("latin-1")


def test_cvl(tmp_path):
    root = put(tmp_path / "cvl-database-1-1", {
        "trainset/lines/0001/0001-1-0.tif": 1, "trainset/words/0001/0001-1-0-0-Imagine.tif": 2,
        "trainset/words/0001/0001-1-0-1-grosse.tif": 3, "trainset/xml/0001-1_attributes.xml": CVL_XML,
        "testset/lines/0052/0052-6-0.tif": 4, "testset/words/0052/0052-6-0-10-zwei.tif": 5,
        "testset/words/0052/0052-6-0-2-eins.tif": 6, "testset/lines/0052/0052-1-1.tif": 7,
        "testset/lines/0052/odd.tif": 8, "testset/xml/bad.xml": "<x", "testset/pages/0052-1.tif": 9,
    })  # fmt: skip
    made = make(tmp_path / "out", "cvl", f"--input={root}")
    assert made.texts == {"0001-1-0": "Imagine große", "0052-6-0": "eins zwei", "0052-1-1": None}
    assert made.splits == {"0001-1-0": "train", "0052-6-0": "test", "0052-1-1": "test"}
    assert made.reasons == {
        "name that is no writer-text-line": 1, "no XML, or damaged": 1, "no transcription (image kept, unlabelled)": 1,
    }  # fmt: skip
    words = make(tmp_path / "words", "cvl", f"--input={root}", "--level=word", "--texts=12345")
    assert words.texts == {"0001-1-0-0": "Imagine", "0001-1-0-1": "große"}
    assert words.reasons["of a text that --texts leaves out"] == 2


def test_rimes(tmp_path):
    page = np.full((100, 200), 230, np.uint8)
    page[10:34, 20:80] = picture(1)
    page[50:74, 120:180] = picture(2)
    data = cv2.imencode(".png", page)[1].tobytes()
    line = '<Line Top="{}" Bottom="{}" Left="{}" Right="{}" Value="{}"/>'.format
    pages = (
        f'<SinglePage FileName="images/train2011-0.png"><Paragraph>{line(10, 33, 20, 79, "J&amp;apos;ai reçu")}'
        f"{line(50, 73, 120, 179, 'une lettre')}{line(-9, 20, 150, 900, 'am Rand')}{line(5, 4, 9, 8, 'x')}"
        f'<Line Top="1"/></Paragraph></SinglePage><SinglePage FileName="images/gone.png">{line(1, 9, 1, 9, "x") * 2}</SinglePage>'
    )
    root = put(tmp_path / "in", {
        "training_2011.xml": f'<?xml version="1.0"?><DocumentList>{pages}</DocumentList>',
        "eval_2011_annotated.xml": f'<DocumentList><SinglePage FileName="images/eval2011-0.png">{line(10, 33, 20, 79, "fin")}</SinglePage></DocumentList>',
        "training_2011/images/train2011-0.png": data, "eval_2011/images/eval2011-0.png": data, "other.xml": "<a/>",
    })  # fmt: skip
    made = make(tmp_path / "out", "rimes", f"--input={root}", "--codec=png")
    assert made.texts == {
        "eval2011-0#0": "fin", "train2011-0#0": "J'ai reçu", "train2011-0#1": "une lettre", "train2011-0#2": "am Rand"
    }  # fmt: skip
    assert made.splits["eval2011-0#0"] == "test" and made.splits["train2011-0#0"] == "train"
    assert (made.image("train2011-0#0") == picture(1)).all()
    assert (made.image("train2011-0#1") == picture(2)).all()
    assert made.image("train2011-0#2").shape == (21, 50)
    assert made.reasons == {
        "box without an area in the image": 1, "line without its four sides": 1, "image is missing (its boxes)": 2,
        "XML without a SinglePage": 1, "no contrast: nothing can be seen on it (image kept)": 1,
    }  # fmt: skip


def test_bentham(tmp_path):
    names = [f"002_080_00{i}_02_01" for i in range(6)]
    images = {f"Images/Lines/{name}.png": i for i, name in enumerate(names[:5])}
    texts = {
        f"Transcriptions/{name}.txt": f"line &amp; {i}\n" for i, name in enumerate(names) if i != 3
    }
    lists = {"Partitions/TrainLines.lst": "\n".join(names[:2]), "Partitions/ValidationLines.lst": names[3],
             "Partitions/TestLines.lst": f"{names[2]}\ngone\n", "Partitions/Train.lst": "002_080_000"}  # fmt: skip
    root = put(
        tmp_path / "BenthamDatasetR0-GT",
        {**images, **texts, **lists, "Images/Pages/002_080_000.png": 9},
    )
    made = make(tmp_path / "out", "bentham", f"--input={root}")
    assert made.texts == {
        names[0]: "line & 0",
        names[1]: "line & 1",
        names[3]: None,
        names[2]: "line & 2",
    }
    assert made.splits == {
        names[0]: "train",
        names[1]: "train",
        names[2]: "test",
        names[3]: "validation",
    }
    assert made.reasons == {
        "no transcription (image kept, unlabelled)": 1, "transcription without an image": 1,
        "split names a missing line": 1, "in no split": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("iam", "holds no lines.txt"),
        ("cvl", "no folder 'lines'"),
        ("rimes", "holds no XML"),
        ("bentham", "no folder Transcriptions"),
    ],
)
def test_refusals(tmp_path, source, words):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(png())
    assert words in refused(tmp_path / "out", source, f"--input={tmp_path / 'in'}")
    assert "must be a folder" in refused(tmp_path / "out", source, "--input=/nowhere")
