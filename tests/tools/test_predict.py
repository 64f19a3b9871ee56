"""tools/predict: images, folders, records and lists to tables that can be gone on with."""

import io
import json
import subprocess
import sys
import types

import pytest

from dig_jax import load
from dig_jax.tools import predict
from tests import readers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    (folder / "images" / "below").mkdir(parents=True)
    readers.files(folder / "images" / "below")
    (folder / "images" / "bad.png").write_bytes(b"no image")
    (folder / "images" / "notes.txt").write_text("no image either")
    readers.records(folder / "records")
    return folder


@pytest.fixture(scope="module")
def reader():
    return load.Reader(readers.model())


def read(reader, names, output):
    table = predict.Table(output)
    return predict.read_all(reader, [str(name) for name in names], table, 4), table


def test_a_folder_becomes_a_table_with_bad_files_named(folder, reader, tmp_path, capsys):
    (lines, bad), _ = read(reader, [folder / "images"], tmp_path / "new" / "readings.tsv")
    header, *rows = (tmp_path / "new" / "readings.tsv").read_text().splitlines()
    assert (lines, bad) == (len(readers.TEXTS), 1) and header.split("\t") == list(predict.COLUMNS)
    cells = [row.split("\t") for row in rows]
    assert cells[0][0].endswith("bad.png") and "not an image" in cells[0][4]
    assert "bad.png: not an image" in capsys.readouterr().err
    for path, text, sure, places, error in cells[1:]:
        assert path.endswith(".png") and len(places.split()) == len(text) and not error
        assert 0 < float(sure) <= 1


def test_an_interrupted_table_is_gone_on_with(folder, reader, tmp_path):
    for name in ("whole.tsv", "whole.jsonl"):
        read(reader, [folder / "images"], tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes(whole[: len(whole) // 2])  # within a line
        (lines, bad), table = read(reader, [folder / "images"], cut)
        assert 0 < lines < len(readers.TEXTS) and table.done
        assert cut.read_bytes() == whole
        (lines, bad), _ = read(reader, [folder / "images"], cut)
        assert (lines, bad) == (0, 0) and cut.read_bytes() == whole


def test_what_was_not_asked_for_is_not_counted(folder, reader, tmp_path, monkeypatch, capsys):
    """A file holds lines of other folders, and an image that was bad is bad the second time."""
    (tmp_path / "bad.png").write_bytes(b"no image")
    flags = types.SimpleNamespace(output=str(tmp_path / "all.tsv"), batch_size=4)
    monkeypatch.setattr(predict, "FLAGS", flags)
    monkeypatch.setattr(predict.reader_flags, "spelling", lambda: None)
    monkeypatch.setattr(predict.reader_flags, "reader", lambda: reader)
    count, only = len(readers.TEXTS), str(tmp_path / "bad.png")
    for names, code, said in (
        ([folder / "images"], 0, f"{count} lines read, 1 could not be\n"),
        ([only], 1, "0 lines read, 1 could not be\n"),
        ([only], 1, "0 lines read, 0 could not be; 0 were read before and 1 could not be\n"),
        ([folder / "images"], 0, f"; {count} were read before and 1 could not be\n"),
        ([folder / "images" / "below"], 0, f"; {count} were read before\n"),
    ):
        assert predict.main(["predict", *map(str, names)]) == code
        assert said in capsys.readouterr().err


def test_names_that_two_sets_share_are_read_of_both(folder, reader, tmp_path):
    table = predict.Table(tmp_path / "readings.tsv")
    table.write(load.Reading("line 1", "text", 1.0, []))
    table.close()
    names = [name for name, _ in predict.inputs([str(folder / "records")] * 2)]
    left = list(predict.Table(tmp_path / "readings.tsv").lacks(zip(names, names)))
    assert len(left) == 2 * len(readers.TEXTS) - 1
    assert sum(name == "line 1" for name, _ in left) == 1


def test_json_lines_name_the_characters(folder, reader, tmp_path):
    read(reader, [folder / "images"], tmp_path / "readings.jsonl")
    bad, *rows = map(json.loads, (tmp_path / "readings.jsonl").read_text().splitlines())
    assert bad.keys() == {"path", "error"}
    for row in rows:
        assert "".join(each["char"] for each in row["characters"]) == row["text"]


def test_records_and_lists_are_read_too(folder, reader, tmp_path, monkeypatch):
    paths = sorted((folder / "images" / "below").glob("*.png"))
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{path}\n" for path in paths[:3])))
    spec = f"{folder / 'records'}@validation"
    for names, count in ((["-"], 3), ([folder / "records"], 8), ([spec], 8), (paths[:2], 2)):
        output = tmp_path / f"{count}-{len(names)}-{str(names[0])[-3:].strip('/')}.tsv"
        (lines, bad), _ = read(reader, names, output)
        assert (lines, bad) == (count, 0)
        last = output.read_text().splitlines()[-1]
        assert last.startswith(("line 7", str(paths[2]), str(paths[1])))


def test_wrong_names_are_refused_in_one_sentence(folder, reader, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere"):
        read(reader, [tmp_path / "nowhere"], tmp_path / "a.tsv")
    with pytest.raises(FileNotFoundError, match="holds no image"):
        (tmp_path / "empty").mkdir()
        read(reader, [tmp_path / "empty"], tmp_path / "b.tsv")
    (tmp_path / "mine.tsv").write_text("my notes\n")
    with pytest.raises(ValueError, match="line 1 is no reading"):
        predict.Table(tmp_path / "mine.tsv")
    assert (tmp_path / "mine.tsv").read_text() == "my notes\n"


FOREIGN = {
    "notes.tsv": "my only notes, one line and no line end",
    "list.tsv": "path\tlabel",
    "run.json": '{"lr": 0.1}',
    "paths.jsonl": '{"path": "a.png", "label": "b"}',
    "names.jsonl": "a.png",
    "labels.jsonl": '{"path": "a.png", "label": "b"}\n',
    "last.jsonl": '{"path": "a.png", "text": "b"}\n{"line": 2}',
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_is_not_ours_stays_as_it_is(tmp_path, name):
    (tmp_path / name).write_text(FOREIGN[name])
    with pytest.raises(ValueError, match=r"exists and line [12] is no reading: name another file"):
        predict.Table(tmp_path / name)
    assert (tmp_path / name).read_text() == FOREIGN[name]


@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl"])
def test_a_file_of_ours_is_gone_on_with_wherever_it_was_cut(tmp_path, name):
    def write(rows):
        table = predict.Table(tmp_path / name)
        for row in rows:
            if not table.done[row.name]:
                table.write(row)
        table.close()
        return (tmp_path / name).read_bytes()

    good, bad = load.Reading('é"\\/1', "ä", 0.5, []), load.Reading("2", "", 0.0, [], "bad")
    for rows in ((good, bad), (bad, good)):
        (tmp_path / name).unlink(missing_ok=True)
        whole = write(rows)
        for size in range(len(whole)):
            (tmp_path / name).write_bytes(whole[:size])
            assert write(rows) == whole, size


def test_a_program_searches_and_spells_as_its_flags_say(folder, tmp_path):
    """A real process: texts for an n-gram, words for the spelling; then those that cannot be."""
    run = readers.run(tmp_path / "run", readers.records(tmp_path / "records"))
    (tmp_path / "texts.txt").write_text("\n".join(readers.TEXTS), encoding="utf-8")
    image = str(folder / "images" / "below" / "1.png")
    base = [sys.executable, "-m", "dig_jax.tools.predict", f"--model={run}", image]
    search = ["--beam=4", "--lm=3", "--lm_weight=2", "--lm_bonus=1.5"]
    search += [f"--texts={tmp_path}/texts.txt"]
    call = lambda *flags: subprocess.run([*base, *flags], capture_output=True, text=True)
    (want,) = load.Reader(
        readers.model(), readers.TEXTS, beam=4, lm=3, lm_weight=2.0, lm_bonus=1.5
    ).read([image])
    word = max(want.text.split(), key=len)
    (tmp_path / "words.txt").write_text(f"{word[:-1]}A", encoding="utf-8")
    done = call(*search, f"--words={tmp_path}/words.txt", "--edits=1")
    assert done.returncode == 0, done.stderr
    spelt = done.stdout.splitlines()[1].split("\t")[1]
    assert spelt == want.text.replace(word, f"{word[:-1]}A") != want.text
    for words, flags in (
        ("--edits is 0: give 1 or more", ["--edits=0"]),
        ("--words=none.txt is no file", ["--words=none.txt"]),
        ("--batch_size is 0", ["--batch_size=0"]),
        ("lm is 3 and there are no texts", ["--beam=4", "--lm=3"]),
    ):
        done = call(*flags)
        assert done.returncode and words in done.stderr and "Traceback" not in done.stderr


def test_the_summary_says_where_the_time_went():
    parts = {"load": 1.0, "compile": 2.0, "decode": 0.5, "network": 1.5, "cpu": 2.0}
    words = predict.summary(100, 1, (5, 0), 7.0, parts)
    assert "100 lines read, 1 could not be; 5 were read before\n" in words
    assert (
        "25 lines/s, 50 a second of CPU time" in words
        and "network 15.00 ms" in words
        and "other 20.00 ms" in words
    )
    words = predict.summary(0, 0, (0, 2), 7.0, parts)
    assert "0 lines read, 0 could not be; 0 were read before and 2 could not be\n" in words
    assert "before" not in predict.summary(0, 1, (0, 0), 7.0, parts)
