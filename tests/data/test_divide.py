"""Lines held back for validation and test, whole groups together, and lines that stand twice."""

import cv2
import numpy as np
import pytest

from dig_jax.data.divide import Division
from dig_jax.data.duplicates import connected, near_pairs, pairs_of_equal, signs
from dig_jax.data.examples import Report
from dig_jax.data.record_set import RecordSet
from dig_jax.data.writer import encode_image, write

BLANK = encode_image(np.full((10, 30), 128, np.uint8), "png")


def line(text, scale=1.0, codec="png", quality=95):
    image = np.full((48, 40 + 17 * len(text)), 225, np.uint8)
    cv2.putText(image, text, (8, 33), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 30, 2, cv2.LINE_AA)
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return encode_image(image, codec, quality)


def made(tmp_path, rows, **options):
    report = Report()
    manifest = write(tmp_path / "set", rows, report=report, arrange=Division(workers=0, **options))
    ids = {
        split: [r.id for r in RecordSet(tmp_path / "set", split).read(range(entry["count"]))]
        for split, entry in manifest["splits"].items()
    }
    return ids, manifest


def pages(count=200, works=20):
    return [
        ("train", BLANK, "a" * (1 + i % 3), f"work{i % works:02d}/{i:03d}") for i in range(count)
    ]


def test_shares_are_exact_and_every_line_is_on_one_side(tmp_path):
    ids, manifest = made(tmp_path, pages(), validation=0.1, test=0.15, seed=3)
    assert {split: len(found) for split, found in ids.items()} == {
        "train": 150, "validation": 20, "test": 30
    }  # fmt: skip
    assert sorted(sum(ids.values(), [])) == sorted(id for *_, id in pages())
    assert all(found == sorted(found, key=lambda id: id[-3:]) for found in ids.values())
    assert any("20 of 200 labelled lines are held back at random" in n for n in manifest["notes"])
    (tmp_path / "b").mkdir()
    other, _ = made(tmp_path / "b", pages(), validation=0.1, test=0.15, seed=4)
    assert other["validation"] != ids["validation"]


@pytest.mark.parametrize("seed", range(5))
def test_of_few_lines_at_least_one_is_held_back(tmp_path, seed):
    ids, _ = made(tmp_path, pages(3), validation=0.1, seed=seed)
    assert {split: len(found) for split, found in ids.items()} == {"train": 2, "validation": 1}


def test_groups_stay_whole(tmp_path):
    ids, manifest = made(tmp_path, pages(), validation=0.1, test=0.2, group_by=r"^(work\d+)/")
    works = {split: {id.split("/")[0] for id in found} for split, found in ids.items()}
    assert [len(works[s]) for s in ("train", "validation", "test")] == [14, 2, 4]
    assert not works["train"] & works["test"] and not works["validation"] & works["test"]
    notes = " ".join(manifest["notes"])
    assert (
        "20 of 200 labelled lines (10.0%) are held back as the split validation: 2 of 20" in notes
    )


def test_each_side_gets_a_group_however_few_there_are(tmp_path):
    ids, _ = made(tmp_path, pages(works=3), validation=0.01, test=0.01, group_by=r"^work\d+")
    assert sorted(map(len, ids.values())) == [66, 67, 67]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation": 0.5, "test": 0.5}, "less than a twentieth"),
        ({"group_by": "x"}, "give --validation or --test too"),
        ({"test": 0.1, "group_by": "("}, "is no regular expression"),
        ({"test": 0.1, "group_by": "^work"}, "finds 1 groups.*2 are needed for train, test"),
        ({"validation": 0.1, "split": "dev"}, "source has a split 'dev': leave the option out"),
        ({"test": 0.1, "split": "a"}, "the source has only a"),
    ],
)
def test_what_cannot_be_divided_is_one_sentence(tmp_path, options, words):
    split = options.pop("split", "train")
    rows = [(split, *row) for _, *row in pages(9)] + pages(9 if split == "dev" else 0)
    with pytest.raises(ValueError, match=words):
        made(tmp_path, rows, **options)
    assert not list(tmp_path.iterdir())


def test_lines_that_stand_twice_go_from_train_and_are_named(tmp_path):
    words = ["Anfang", "mitten drin", "Ende gut", "alles gut", "zwei drei", "ohne Text hier"]
    rows = [("train", line(w), w, f"t{i}") for i, w in enumerate(words)]
    rows.append(("train", line("Anfang"), "Anfang", "again"))  # the same bytes
    rows.append(("test", line("Ende gut", 0.8, "jpeg", 70), "Ende gut", "leak"))  # stored anew
    rows.append(("train", line("zwei drei"), "zwei vier", "wrong"))  # the same under another label
    rows.append(("train", line("ohne Text hier", 0.9), None, "bare"))
    rows += [("train", BLANK, "x", "blank"), ("train", line("drin"), "drin", "other")]
    ids, manifest = made(tmp_path, rows, dedupe=True)
    assert ids == {
        "train": ["t0", "t1", "t3", "t4", "t5", "wrong", "blank", "other"],
        "test": ["leak"],
    }
    assert manifest["skipped"]["reasons"] == {
        "nearly the same image stands in test (left out of train)": 1,
        "nearly the same image stands in train (left out of train)": 1,
        "same image under two labels (both kept)": 1,
        "the same image stands in train (left out of train)": 1,
    }
    names = {entry["name"] for entry in manifest["skipped"]["first"]}
    assert names == {"t2 = leak", "again = t0", "t4 = wrong", "bare = t5"}


def test_an_unlabelled_picture_joins_no_two_labels(tmp_path):
    """It goes, and both labels of the same picture stay and are named."""
    rows = [
        ("train", line("Anfang"), text, str(i)) for i, text in enumerate([None, "eins", "zwei"])
    ]
    ids, manifest = made(tmp_path, rows, dedupe=True)
    assert ids == {"train": ["1", "2"]} and manifest["skipped"]["reasons"] == {
        "same image under two labels (both kept)": 1,
        "the same image stands in train (left out of train)": 1,
    }
    assert {entry["name"] for entry in manifest["skipped"]["first"]} == {"1 = 2", "0 = 1"}


def test_near_pairs_are_those_of_a_search_over_all():
    """The sorted orders against all pairs, on signatures of random lines and changed copies."""
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (300, 32), np.uint8)
    flips = rng.random((100, 256)) < rng.uniform(0, 0.08, (100, 1))
    two = one[:100] ^ np.packbits(flips, axis=1)
    all_signs = np.concatenate([one, two])

    class columns:
        width_px = np.full(400, 90, np.uint16)
        height_px = np.full(400, 30, np.uint16)

    distance = np.unpackbits(all_signs[:, None] ^ all_signs[None], axis=2).sum(2, dtype=np.int64)
    wanted = {(a, b) for a, b in np.argwhere(distance <= 36).tolist() if a < b}
    found = set(map(tuple, near_pairs(all_signs, columns).tolist()))
    assert found <= wanted and len(found) >= 0.99 * len(wanted) and len(wanted) >= 90
    columns.width_px[100:] = 140  # another shape is another line
    columns.width_px[300:] = 140
    assert len(near_pairs(all_signs, columns)) == 0


def test_signs_tell_copies_from_other_lines():
    distance = lambda a, b: int(
        np.unpackbits(np.frombuffer(bytes(x ^ y for x, y in zip(a, b)), np.uint8)).sum()
    )
    copy = distance(signs(line("Anfang")), signs(line("Anfang", 0.75, "jpeg", 60)))
    other = distance(signs(line("Anfang")), signs(line("Umfang")))
    assert copy <= 12 and other > 36 and signs(BLANK) == bytes(32) == signs(b"no image")


def test_pairs_and_groups():
    assert pairs_of_equal(np.array([b"a", b"b", b"a", b"c", b"a"])).tolist() == [[0, 2], [0, 4]]
    assert connected([[3, 1], [5, 4], [1, 2]]) == [[1, 2, 3], [4, 5]]
