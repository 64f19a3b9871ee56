"""tools/show_readings: every mistake of a reading is red, and every line is in the picture."""

import pathlib
import subprocess

import numpy as np
import pytest
from PIL import Image

from dig_jax.tools import show_readings


def test_mistakes_are_marked_and_nothing_is_lost():
    pieces = show_readings.marked("ein Glas", "eim las!")
    assert pieces == [
        ("ei", False), ("m", True), (" ", False), ("\N{MIDDLE DOT}", True), ("las", False),
        ("!", True),
    ]  # fmt: skip
    assert show_readings.marked("gut", "gut") == [("gut", False)]


def test_every_line_is_drawn_red_where_it_is_wrong():
    line = np.full((48, 300, 3), 255, np.uint8)
    line[10:20] = 0
    right = show_readings.drawn([(line, "gut", "gut"), (line, "gut", "gut")]).astype(int)
    wrong = show_readings.drawn([(line, "gut", "gut"), (line, "gut", "bös")]).astype(int)
    red = lambda picture: (picture[..., 2] > 150) & (picture[..., :2].max(-1) < 90)
    assert not red(right).any() and red(wrong).any()
    assert not red(wrong)[: wrong.shape[0] // 2].any()  # the first line is right
    assert (right == 0).all(-1).sum() == 2 * 10 * 300


def test_lines_are_taken_at_even_distances():
    lines = [(b"", str(i)) for i in range(11)]
    assert [text for _, text in show_readings.chosen(lines, 3)] == ["2", "5", "8"]
    assert show_readings.chosen(lines, 11) == lines


def test_both_texts_are_on_the_terminal_whatever_its_width():
    read = [("lightning, have?", "lightning, hare?"), ("gut", "gut")]
    for columns in (100, 30):
        text = show_readings.summary("print", read, columns)
        assert all(piece in text for pair in read for piece in pair)
        assert text.count("1 wrong") == 1 and "1 of 19 characters wrong in 2 lines" in text
        assert "(CER 5.3 %)" in text
    beside = show_readings.summary("print", read, 100).splitlines()
    assert any("have?" in line and "hare?" in line for line in beside)


def test_files_of_a_folder_that_are_not_read_are_counted(tmp_path, capsys):
    (tmp_path / "scan.pdf").write_bytes(b"x")
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    assert len(show_readings.lines_of(str(tmp_path), labelled=False)) == 1
    assert f"{tmp_path}: 1 left out: .pdf is not read" in capsys.readouterr().err


@pytest.mark.slow
def test_a_bundled_reader_reads_the_lines_that_it_brings(tmp_path, python):
    """The first minute of the demo: no data of the user's own."""
    command = [python, "-m", "dig_jax.tools.show_readings"]
    run = lambda *more: subprocess.run([*command, *more], capture_output=True, text=True)
    done = run("fraktur", f"--output={tmp_path}/a.png")
    assert done.returncode == 0, done.stderr
    assert "bedauernswerthen Frau" in done.stdout and "in 6 lines" in done.stdout
    assert float(done.stdout.split("(CER ")[1].split(" %")[0]) < 5
    assert pathlib.Path(tmp_path, "a.png").read_bytes().startswith(b"\x89PNG")
    hands = run("hands", f"--output={tmp_path}/b.png").stdout
    assert 5 < float(hands.split("(CER ")[1].split(" %")[0]) < 25  # its card says 10.8 %
    none = run("gen48")
    assert none.returncode == 1 and "brings no lines of its own" in none.stderr
