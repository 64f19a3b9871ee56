"""readings-SET.tsv: what is written is read back, and what is no such file is a sentence."""

import pytest

from dig_jax.workdir import readings
from dig_jax.workdir.readings import Reading

LINES = [
    Reading("a/1.png", "tin", "tim", 1, 0.25),
    Reading('odd\tname\\t\n"x".png', "", "", 0),
    Reading("b\u2028c", "a\u0364 \u05d0\u05d1", "a\\n", 5, 1.0),
]


def test_round_trip(tmp_path):
    path = readings.file_of(tmp_path / "new", "words-test")
    readings.write(path, LINES)
    assert readings.read(path) == LINES
    assert len(path.read_bytes().split(b"\n")) == len(LINES) + 2  # header, end of the last line
    assert readings.datasets(path.parent) == ["words-test"]
    assert [other.name for other in path.parent.iterdir()] == ["readings-words-test.tsv"]
    readings.write(path, [])
    assert readings.read(path) == []


def test_a_file_with_other_line_ends(tmp_path):
    path = tmp_path / "readings-x.tsv"
    readings.write(path, LINES[:1])
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert readings.read(path) == LINES[:1]


@pytest.mark.parametrize("row", ["a\tb\tc", "a\tb\tc\tmany\t0.5", "a\tb\tc\t1\tsure"])
def test_what_is_no_reading_is_a_sentence(tmp_path, row):
    path = tmp_path / "readings-x.tsv"
    path.write_text("name\ttext\n")
    with pytest.raises(ValueError, match="first line has to name the columns path, truth"):
        readings.read(path)
    path.write_text("\t".join(readings.COLUMNS) + "\n" + row + "\n")
    with pytest.raises(ValueError, match="line 2 is no reading"):
        readings.read(path)
