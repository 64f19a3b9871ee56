"""tools/predict: images, folders, records and lists to tables that can be gone on with."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import types

import jax
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


@pytest.mark.parametrize("ending", predict.ENDINGS)
def test_odd_files_stop_nothing_and_are_read_once(folder, reader, tmp_path, ending, capsys):
    """A name that is no UTF-8, a pipe that nobody writes to, and a folder called like an image."""
    odd = os.fsencode(tmp_path) + b"/odd"
    os.mkdir(odd)
    source = next((folder / "images" / "below").glob("*.png"))
    for name in (b"bad\xff.png", b"good.png"):
        with open(odd + b"/" + name, "wb") as file:
            file.write(source.read_bytes())
    os.mkfifo(odd + b"/pipe.png")
    os.mkdir(odd + b"/folder.png")
    output = tmp_path / f"readings{ending}"
    assert read(reader, [tmp_path / "odd"], output)[0] == (2, 1)
    text = output.read_text(encoding="utf-8")
    assert r"bad\\udcff.png" in text and "pipe.png: not a file" in capsys.readouterr().err
    (lines, bad), table = read(reader, [tmp_path / "odd"], output)
    assert (lines, bad, table.skipped) == (0, 1, 2)


def test_an_interrupted_table_is_gone_on_with(folder, reader, tmp_path):
    for name in ("whole.tsv", "whole.jsonl"):
        read(reader, [folder / "images"], tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        cut = tmp_path / f"cut-{name}"
        cut.write_bytes(whole[: len(whole) // 2])  # within a line
        (lines, bad), table = read(reader, [folder / "images"], cut)
        assert 0 < lines < len(readers.TEXTS) and table.done
        assert sorted(cut.read_bytes().splitlines()) == sorted(whole.splitlines())
        (lines, bad), _ = read(reader, [folder / "images"], cut)
        assert (lines, bad) == (0, 1)  # what was bad is tried again
        assert sorted(cut.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_what_was_not_asked_for_is_not_counted(folder, reader, tmp_path, monkeypatch, capsys):
    """A file holds lines of other folders, and an image that was bad is bad the second time."""
    (tmp_path / "bad.png").write_bytes(b"no image")
    program(monkeypatch, reader, tmp_path / "all.tsv")
    count, only = len(readers.TEXTS), str(tmp_path / "bad.png")
    for names, code, said in (
        ([folder / "images"], 0, f"{count} lines read, 1 could not be\n"),
        ([only], 1, "0 lines read, 1 could not be\n"),
        ([only], 1, "0 lines read, 1 could not be\n"),
        ([folder / "images"], 0, f"0 lines read, 1 could not be; {count} were read before\n"),
        ([folder / "images" / "below"], 0, f", 0 could not be; {count} were read before\n"),
    ):
        assert predict.main(["predict", *map(str, names)]) == code
        assert said in capsys.readouterr().err


def program(monkeypatch, reader, output, **flags):
    """predict.main with this reader and these flags."""
    told = {"model": "toy", "words": "", "edits": 1, "batch_size": 4, "output": str(output)}
    monkeypatch.setattr(predict, "FLAGS", types.SimpleNamespace(**told | flags))
    monkeypatch.setattr(predict.reader_flags, "spelling", lambda: None)
    monkeypatch.setattr(predict.reader_flags, "reader", lambda: reader)
    return lambda *names: predict.main(["predict", *map(str, names)])


@pytest.mark.parametrize("ending", [".tsv", ".jsonl"])
def test_a_file_has_readings_of_one_reader(folder, reader, tmp_path, monkeypatch, capsys, ending):
    """Weights, search and words count, by what they are; where the model lies does not."""
    output, below = tmp_path / f"a{ending}", folder / "images" / "below"
    (tmp_path / "words.txt").write_text("word")
    first = sorted(below.glob("*.png"))[0]
    assert program(monkeypatch, reader, output)(first) == 0
    before = output.read_bytes()
    other = load.Reader(
        dataclasses.replace(
            reader.model, weights=jax.tree.map(lambda leaf: leaf + 1, reader.model.weights)
        )
    )
    ngram = load.Reader(reader.model, readers.TEXTS)
    words = {"words": str(tmp_path / "words.txt")}
    for one, flags, said in (
        (other, {"model": "b"}, r"model toy, weights \w{8}, and now it would be model b, weights"),
        (load.Reader(reader.model, beam=2), {}, "with beam 1, and now it would be beam 2: name"),
        (ngram, {}, r"beam 1, lm none, .* now it would be beam 8, lm 4, texts \w{8}, lm_weight"),
        (reader, words, r"with words none, edits none, and now .* words \w{8}, edits 1: name"),
    ):
        with pytest.raises(ValueError, match=f"a{ending} was read .*{said}.*or read as before"):
            program(monkeypatch, one, output, **flags)(below)
        assert output.read_bytes() == before
    assert program(monkeypatch, reader, output, model="moved")(below) == 0
    assert f"{len(readers.TEXTS) - 1} lines read" in capsys.readouterr().err
    beside = output.with_name(output.name + predict.READ_BY)
    beside.write_text("[1]")
    with pytest.raises(ValueError, match="does not say what read"):
        program(monkeypatch, reader, output)(below)
    beside.unlink()  # as of an older version
    assert program(monkeypatch, other, output)(below) == 0
    assert "it is not known what read the lines that it holds" in capsys.readouterr().err
    assert not beside.exists()
    output.unlink()
    assert program(monkeypatch, other, output)(below) == 0  # a new file is any reader's
    assert program(monkeypatch, other, output)(below) == 0 and beside.exists()


@pytest.mark.parametrize("ending", [".tsv", ".jsonl"])
def test_a_mended_image_is_read(folder, reader, tmp_path, monkeypatch, capsys, ending):
    good = sorted((folder / "images" / "below").glob("*.png"))
    (tmp_path / "a.png").write_bytes(b"broken")
    (tmp_path / "b.png").write_bytes(good[1].read_bytes())
    call = program(monkeypatch, reader, tmp_path / f"r{ending}")
    assert call(tmp_path) == 0
    (tmp_path / "a.png").write_bytes(good[0].read_bytes())
    assert call(tmp_path) == 0
    assert "1 lines read, 0 could not be; 1 were read before" in capsys.readouterr().err
    rows = (tmp_path / f"r{ending}").read_text()
    assert "not an image" not in rows and rows.count("a.png") == rows.count("b.png") == 1


def test_of_one_name_all_lines_are_read_again(tmp_path):
    """So that lines of one name stay in the order of their records, as compare takes them."""
    table = predict.Table(tmp_path / "a.tsv")
    for error in ("", "bad", ""):
        table.write(load.Reading("same", "" if error else "text", 0.5, [], error))
    table.write(load.Reading("other", "text", 0.5, []))
    table.close()
    table = predict.Table(tmp_path / "a.tsv")
    table.close()
    assert table.done == {"other": 1} and "same" not in (tmp_path / "a.tsv").read_text()


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x", "x.TSV"])
def test_an_output_of_another_kind_is_refused(tmp_path, monkeypatch, reader, name):
    with pytest.raises(ValueError, match=f"{name} is no .tsv or .jsonl file: name one"):
        program(monkeypatch, reader, tmp_path / name)(tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_of_other_kinds_are_counted(folder, tmp_path, capsys):
    for name in ("scan.pdf", "b.HEIC", "c.heic", "labels.tsv", ".d.pdf"):
        (tmp_path / name).write_bytes(b"x")
    said = "2 .heic, 1 .pdf left out: tools.read reads PDFs, other kinds are read once they are PNG"
    with pytest.raises(FileNotFoundError, match=rf"holds no image \({said} or JPEG\): name anoth"):
        list(predict.inputs([str(tmp_path)]))
    (tmp_path / "a.png").write_bytes(b"x")
    assert len(list(predict.inputs([str(tmp_path)]))) == 1
    assert f"{tmp_path}: {said}" in capsys.readouterr().err
    list(predict.inputs([str(folder / "images")]))  # notes.txt is no picture
    assert not capsys.readouterr().err


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
    "run.jsonl": '{"lr": 0.1}',
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
            cut = write(rows)  # a bad image is tried again, so it may stand at the end
            assert sorted(cut.splitlines()) == sorted(whole.splitlines()), size


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
    words = predict.summary(100, 1, 5, 7.0, parts)
    assert "100 lines read, 1 could not be; 5 were read before\n" in words
    assert (
        "25 lines/s, 50 a second of CPU time" in words
        and "network 15.00 ms" in words
        and "other 20.00 ms" in words
    )
    assert "before" not in predict.summary(0, 1, 0, 7.0, parts)
