"""The data sets of the guides, in their own layouts: digits, house numbers, street text,
Devanagari.
"""

import gzip
import json

import numpy as np
import pytest

from tests.data import fakes
from tests.data.made import make, picture, refused
from tests.data.test_pairs import put


@pytest.mark.parametrize("pack", [True, False])
def test_mnist(tmp_path, pack):
    root = fakes.mnist(tmp_path / "in", pack)
    made = make(tmp_path / "out", "mnist", f"--input={root}", "--codec=png")
    assert [text for text in made.texts.values()] == ["6", "7", "0", "1", "2", "3", "4", "5"]
    assert made.splits["t10k-/0000000"] == "test" and made.splits["train-/0000005"] == "train"
    assert (made.image("train-/0000003") == fakes.digit(3)).all() and made.reasons == {}


def test_emnist_lies_on_its_side_and_has_a_mapping(tmp_path):
    root = put(tmp_path / "in", {
        "emnist-letters-test-images-idx3-ubyte": fakes.idx(np.stack([fakes.digit(3).T, fakes.digit(4).T, fakes.digit(5)])),
        "emnist-letters-test-labels-idx1-ubyte": fakes.idx(labels=[1, 26]),
        "emnist-letters-mapping.txt": "1 65 97\n26 90 122\n",
    })  # fmt: skip
    made = make(tmp_path / "out", "mnist", f"--input={root}", "--codec=png")
    name = "emnist-letters-test-/000000"
    assert made.texts == {f"{name}0": "A", f"{name}1": "Z", f"{name}2": None}
    assert (
        set(made.splits.values()) == {"test"} and (made.image(f"{name}0") == fakes.digit(3)).all()
    )
    assert made.reasons == {"no label for this image (image kept, unlabelled)": 1}


def test_damaged_idx_files_are_counted_to_the_last_image(tmp_path):
    root = fakes.mnist(tmp_path / "in", pack=False)
    file = root / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-900])  # one image and a piece
    (root / "t10k-labels-idx1-ubyte").write_bytes(b"nothing")
    made = make(tmp_path / "out", "mnist", f"--input={root}")
    assert list(made.texts.values()) == [None, None, "0", "1", "2", "3"]
    assert made.reasons == {
        "images that the damaged file lacks": 2, "no idx file of bytes, or damaged (images kept, unlabelled)": 1
    }  # fmt: skip
    bomb = gzip.compress(
        fakes.idx(np.zeros((1, 1, 1), np.uint8))[:4] + b"\xff" * 12 + bytes(1 << 20)
    )
    for name in ("train", "t10k"):
        (root / f"{name}-images-idx3-ubyte").write_bytes(gzip.decompress(bomb)[:2000])
    assert "idx file that claims too much" in refused(tmp_path / "x", "mnist", f"--input={root}")


def test_labels_beyond_the_images_are_counted(tmp_path):
    root = fakes.mnist(tmp_path / "in", pack=False)
    (root / "t10k-labels-idx1-ubyte").write_bytes(fakes.idx(labels=[6, 7, 8, 9]))
    made = make(tmp_path / "out", "mnist", f"--input={root}")
    assert list(made.texts.values()) == ["6", "7", "0", "1", "2", "3", "4", "5"]
    assert made.reasons == {"label without an image": 2}


def test_svhn_full_numbers(tmp_path):
    fakes.svhn(tmp_path / "in" / "train")
    fakes.svhn(tmp_path / "in" / "test", 1)
    (tmp_path / "in" / "train" / "2.png").unlink()
    made = make(tmp_path / "out", "svhn", f"--input={tmp_path / 'in'}", "--codec=png")
    assert made.texts == {
        "test/1.png": "2",
        "train/1.png": "2",
        "train/3.png": "230",
        "train/4.png": "2301",
    }
    assert made.splits["test/1.png"] == "test" and made.reasons == {
        "image is missing (its boxes)": 1
    }
    assert (made.image("train/3.png") == picture(2, 60)).all()


@pytest.mark.slow
def test_svhn_cropped(tmp_path):
    fakes.svhn_cropped(tmp_path / "in")
    fakes.svhn_cropped(tmp_path / "in", "extra", 11)
    made = make(
        tmp_path / "out", "svhn", f"--input={tmp_path / 'in'}", "--codec=png", "--channels=3"
    )
    assert [made.texts[f"train_32x32/{i:07d}"] for i in range(5)] == ["0", "1", "2", "3", "4"]
    assert (
        made.texts["extra_32x32/0000010"] == "0" and made.splits["extra_32x32/0000010"] == "extra"
    )
    assert (made.image("train_32x32/0000004")[..., 0] == picture(4, 32, 32)).all()
    fakes.svhn(tmp_path / "in" / "train", 1)
    assert "--level=word|digit" in refused(tmp_path / "x", "svhn", f"--input={tmp_path / 'in'}")
    only = make(tmp_path / "w", "svhn", f"--input={tmp_path / 'in'}", "--level=word")
    assert list(only.rows) == ["train/1.png"]


@pytest.mark.slow
def test_svhn_damage_and_refusals(tmp_path):
    fakes.svhn_cropped(tmp_path / "in")
    (tmp_path / "in" / "test_32x32.mat").write_bytes(b"no file of matlab" * 20)
    made = make(tmp_path / "out", "svhn", f"--input={tmp_path / 'in'}")
    assert len(made.rows) == 5 and sum(made.reasons.values()) == 1
    (tmp_path / "none").mkdir()
    assert "holds no digitStruct.mat" in refused(
        tmp_path / "x", "svhn", f"--input={tmp_path / 'none'}"
    )


def test_svt_keeps_its_lexicons(tmp_path):
    more = '<taggedRectangle height="9" width="9" x="500" y="1"><tag>OUT</tag></taggedRectangle><taggedRectangle x="1"/>'
    gone = "<image><imageName>img/gone.png</imageName><lex>A,B</lex><taggedRectangle height='1' width='1' x='1' y='1'><tag>A</tag></taggedRectangle></image>"
    out = "<image><imageName>../up.png</imageName></image>"
    root = put(tmp_path / "in", {
        "test.xml": fakes.SVT.format(more, gone + out), "img/14_03.png": fakes.photograph(fakes.SVT_BOXES), "train.xml": "<tagset/>",
    })  # fmt: skip
    made = make(tmp_path / "out", "svt", f"--input={root}", "--codec=png")
    assert made.texts == {"img/14_03.png#0": "LIVING", "img/14_03.png#1": "ROOM"}
    assert (
        set(made.splits.values()) == {"test"}
        and (made.image("img/14_03.png#1") == picture(1, 80, 30)).all()
    )
    lexicons = json.loads((tmp_path / "out" / "records.json").read_text())["lexicons"]
    assert lexicons == {"img/14_03.png": ["LIVING", "ROOM", "THEATERS"], "img/gone.png": ["A", "B"]}
    assert made.reasons == {
        "box without an area in the image": 1, "rectangle without its four sides": 1, "image is missing (its boxes)": 1,
        "path leads out of the folder": 1, "XML without an image": 1,
    }  # fmt: skip


def test_kaist_words_and_characters(tmp_path):
    root = put(
        tmp_path / "in",
        {
            "train/DSC02585.xml": fakes.KAIST.format(""),
            "train/dsc02585.jpg": fakes.photograph(fakes.SVT_BOXES),
        },
    )
    made = make(tmp_path / "out", "kaist", f"--input={root}", "--codec=png")
    assert made.texts == {"train/DSC02585#0": "Ab", "train/DSC02585#1": "한"} and made.reasons == {}
    assert (made.image("train/DSC02585#0") == picture(0, 60, 24)).all()
    letters = make(tmp_path / "c", "kaist", f"--input={root}", "--level=character")
    assert list(letters.texts.values()) == ["A", "b", "한"]


def test_characters_in_folders(tmp_path):
    files = {"Train/character_1_ka/1.png": 1, "Train/character_36_gya/2.png": 2, "Test/digit_9/3.png": 3, "Test/loose.png": 4,
             "Train/other/5.png": 5}  # fmt: skip
    root = put(tmp_path / "in", files)
    made = make(tmp_path / "out", "characters", f"--input={root}")
    assert made.texts == {
        "Train/character_1_ka/1.png": "क", "Train/character_36_gya/2.png": "ज्ञ", "Test/digit_9/3.png": "९", "Train/other/5.png": "other",
    }  # fmt: skip
    assert made.splits["Test/digit_9/3.png"] == "test" and made.reasons == {
        "image in no folder of a class": 1
    }
    (tmp_path / "classes.tsv").write_text("other\tÖ\nbroken\n")
    named = make(
        tmp_path / "n", "characters", f"--input={root}", f"--classes={tmp_path / 'classes.tsv'}"
    )
    assert (
        named.texts == {"Train/other/5.png": "Ö"}
        and named.reasons["class that --classes does not name"] == 3
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("mnist", "no images-idx3-ubyte"),
        ("svt", "holds no XML"),
        ("kaist", "holds no XML"),
        ("characters", "no folder with images"),
    ],
)
def test_refusals(tmp_path, source, words):
    (tmp_path / "in").mkdir()
    assert words in refused(tmp_path / "out", source, f"--input={tmp_path / 'in'}")
