"""docs/data.md: every command runs, on a small set of its layout, and every source has one."""

import re
import shlex
from pathlib import Path

import lmdb
import pyarrow.parquet
import pytest

from dig_jax.data.record_set import RecordSet
from dig_jax.tools import export_records, make_records, records_check, show_records
from tests.data import fakes, test_handwriting, test_pages
from tests.data.made import png
from tests.data.test_lmdb import database, pairs
from tests.data.test_pairs import put
from tests.data.test_parquet import hub
from tests.data.toy_builders import Words

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    for line in block.strip().splitlines()
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data/NAME for each command."""
    root = tmp_path_factory.mktemp("doc")
    data = root / "data"
    put(data / "folder", {"a.png": 1, "b.png": 2, "labels.tsv": "a.png\tone\n"})
    put(data / "pairs", {"a.png": 1, "a.gt.txt": "one\n", "b.png": 2, "b.gt.txt": "two\n"})
    put(data / "table", {"a.png": 1, "words.csv": "file,label\na.png,one\n"})
    works = {f"work{i}/{j}.png": 9 * i + j for i in range(5) for j in range(3)}
    texts = "".join(f"{name}\t{name[4:7]}\n" for name in works)
    put(data / "works", {**works, "labels.tsv": texts})
    for name in ("training/MJ", "evaluation/SVT"):
        database(data / "lmdb" / name, pairs(2), 2)
    (data / "parquet").mkdir()
    pyarrow.parquet.write_table(hub([(png(1), "one")]), data / "parquet" / "train-0.parquet")
    Words(data_dir=data / "tfds", file_format="array_record").download_and_prepare()
    test_pages.transkribus(data / "page_xml")
    test_pages.write(data / "alto", "p1.png")
    (data / "alto" / "p1.xml").write_text(test_pages.alto(test_pages.box_line(0)))
    put(data / "iam", {
        "ascii/lines.txt": test_handwriting.IAM_LINES, "ascii/words.txt": test_handwriting.IAM_WORDS,
        "lines/a01/a01-000u/a01-000u-00.png": 1, "words/a01/a01-000u/a01-000u-00-00.png": 2,
    })  # fmt: skip
    put(data / "cvl", {"trainset/words/0001/0001-1-0-0-Imagine.tif": 1})
    line = '<Line Top="1" Bottom="20" Left="1" Right="50" Value="x"/>'
    text = f'<DocumentList><SinglePage FileName="images/a.png">{line}</SinglePage></DocumentList>'
    put(data / "rimes", {"training_2011.xml": text, "training_2011/images/a.png": 1})
    put(
        data / "bentham",
        {"Images/Lines/a.png": 1, "Transcriptions/a.txt": "x", "Partitions/TrainLines.lst": "a"},
    )
    fakes.mnist(data / "mnist")
    fakes.svhn(data / "svhn" / "train", 2)
    fakes.svhn_cropped(data / "svhn")
    photograph = fakes.photograph(fakes.SVT_BOXES)
    put(data / "svt", {"test.xml": fakes.SVT.format("", ""), "img/14_03.png": photograph})
    put(data / "kaist", {"DSC02585.xml": fakes.KAIST.format(""), "DSC02585.JPG": photograph})
    put(data / "characters", {"Train/character_1_ka/1.png": 1, "Test/digit_0/2.png": 2})
    (data / "greek.txt").write_text("καλημέρα κόσμε", "utf-8")
    (data / "words.txt").write_text("und das haus", "utf-8")
    return root


def test_every_source_has_a_recipe():
    told = set(re.findall(r"--source=(\w+)", " ".join(COMMANDS)))
    assert told == set(make_records.source_names())


@pytest.mark.slow
def test_every_command_runs(place, monkeypatch, capsys):
    """In the order of the page, since some read what others made."""
    monkeypatch.chdir(place)
    for command in COMMANDS:
        python, dash, module, *argv = shlex.split(command)
        assert (python, dash) == ("python", "-m"), command
        if module == "dig_jax.tools.make_records":
            assert make_records.main([*argv, "--workers=0"]) == 0, (command, capsys.readouterr())
            assert re.search(r": [1-9]\d* records: ", capsys.readouterr().out), command
        elif module == "dig_jax.tools.records_check":
            assert records_check.check(RecordSet(argv[0]), 1000, True)["faults"] == {}, command
        elif module == "dig_jax.tools.show_records":
            assert "work" in show_records.page([(argv[0], "")], lines=9), command
        else:
            assert module == "dig_jax.tools.export_records", command
            options = dict(flag[2:].split("=", 1) for flag in argv)
            if options["format"] == "lmdb":
                export_records.to_lmdb(Path(options["records"]), Path(options["output"]))
            else:
                export_records.to_tfds(Path(options["records"]))
    with lmdb.open("lmdb/lines/train", readonly=True, lock=False) as env, env.begin() as db:
        assert db.get(b"num-samples") == b"2" and db.get(b"label-%09d" % 1)
