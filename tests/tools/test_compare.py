"""The comparison on readings made by hand: verdicts, pairing, and what a user may do wrong."""

import pytest
from absl import app, flags
from absl.testing import flagsaver

from dig_jax.data import records
from dig_jax.load import Reading as Prediction
from dig_jax.text import Charset
from dig_jax.tools import compare, predict
from dig_jax.workdir import readings
from dig_jax.workdir.readings import Reading
from tests import readers

WORKS = [f"{w}/{i}.png" for w in range(12) for i in range(4)]


def save(folder, errors, name="words", truth="a" * 10):
    lines = [Reading(p, truth, truth[: len(truth) - n], n, 0.5) for p, n in zip(WORKS, errors)]
    readings.write(readings.file_of(folder, name), lines)
    return str(folder)


def run(capsys, *argv):
    """What is printed for this command line."""
    with flagsaver.flagsaver():
        compare.main(flags.FLAGS(["compare", *map(str, argv)]))
    return capsys.readouterr().out


def test_one_recogniser(tmp_path, capsys):
    folder = save(tmp_path / "a", [2, 0] * 24)
    (tmp_path / "a/charset.json").write_text(Charset("bc").to_json())
    out = run(capsys, folder, "--group_by=^[^/]+")
    rows = {tuple(row.split()[:4]): row for row in out.splitlines()}
    assert "words: 48 lines in 12 groups" in out
    assert "[7." in rows["raw", "48", "CER", "10.0"]  # by line; each work has the same errors:
    assert rows["raw", "48", "CER", "10.0"].endswith("[10.0, 10.0]")
    assert ("waics", "48", "word", "accuracy") in rows
    assert "a (480)" in out and "lacks 1 characters" in out
    assert any(row.split() == ["a", "480", "0", "48", "0"] for row in out.splitlines())


def test_lines_of_texts_that_training_has_can_be_left_out(tmp_path, capsys):
    """Three lines: one of training, one of which a third stands there, one that is new."""
    known = "a line that was copied by two writers"
    part, new = known[:20] + "and goes on with other words of its own", "nothing of this is there"
    (tmp_path / "known.txt").write_text(known + "\nanother", encoding="utf-8")
    folder = tmp_path / "a"
    rows = [
        Reading(f"{i}.png", text, text[i:], i, 0.5) for i, text in enumerate((known, part, new))
    ]
    readings.write(readings.file_of(folder, "words"), rows)
    flags_given = [f"--new_to={tmp_path}/known.txt", "--errors=0", "--rule=raw"]
    assert "words: 3 lines" in run(capsys, folder, *flags_given[1:])
    out = run(capsys, folder, *flags_given)
    assert "words: 1 lines" in out and f"{100 * 2 / len(new):.1f}" in out
    (tmp_path / "known.txt").write_text(known[:15], encoding="utf-8")  # 4 of 26, and of 48 pieces
    assert "words: 2 lines" in run(capsys, folder, *flags_given)
    (tmp_path / "known.txt").write_text("\n".join((known, part, new)), encoding="utf-8")
    with pytest.raises(ValueError, match="has no line of new text: name other records"):
        run(capsys, folder, *flags_given)


def test_means_over_sets_count_sets_or_lines(tmp_path, capsys):
    folder = save(tmp_path / "a", [1] * 48, name="long-test")
    save(tmp_path / "a", [4] * 12, name="short-test")
    save(tmp_path / "a", [9] * 12, name="mine")
    out = run(capsys, folder, "--set=long-test,short-test", "--rule=raw", "--errors=0")
    assert "Means over 2 sets (long-test, short-test)" in out and "mine" not in out
    row = [row.split() for row in out.splitlines() if row.startswith("raw   2     CER")][-1]
    assert row[3:] == ["25.0", "16.0"]  # 10 and 40 %; 48 lines and 12
    save(tmp_path / "a", [0] * 12, name="han-test", truth="\u6f22" * 10)
    out = run(capsys, folder, "--set=long-test,han-test", "--rule=parseq36", "--errors=0")
    row = [row.split() for row in out.splitlines() if row.startswith("parseq36  1     CER")][-1]
    assert row[3:] == ["10.0", "10.0"]  # the other set has no line under the rule
    with pytest.raises(ValueError, match="no readings of 'lost'; it has: han-test, long-test"):
        run(capsys, folder, "--set=mine,lost")


def test_two_recognisers(tmp_path, capsys):
    a, b = save(tmp_path / "a", [2] * 48), save(tmp_path / "b", [3, 2] * 24)
    out = run(capsys, a, b, "--rule=raw", "--group_by=^[^/]+")
    row = next(row for row in out.splitlines() if row.startswith("raw   48     CER"))
    assert row.split()[3:6] == ["20.0", "25.0", "-5.0"] and row.endswith("yes")
    out = run(capsys, a, a, "--rule=raw")
    assert out.count("not shown") == 4 and "--group_by" in out


def test_a_rule_that_drops_every_line_has_no_rates(tmp_path, capsys):
    a, b = (save(tmp_path / name, [2] * 48, truth="a b c d e") for name in "ab")
    for files in ([a], [a, b]):
        out = run(capsys, *files, "--rule=raw,clova", "--group_by=^[^/]+")
        row = next(row for row in out.splitlines() if row.startswith("clova"))
        assert row.split()[1:3] == ["0", "all"] and set(row.split()[3:]) == {"-"}
        assert "nan" not in out


def test_the_verdict_goes_by_groups(tmp_path, capsys):
    """One work is read worse by B, all others alike: over lines that is a clear difference."""
    a, b = save(tmp_path / "a", [1] * 48), save(tmp_path / "b", [9] * 4 + [1] * 44)
    verdicts = {}
    for options in ([], ["--group_by=^[^/]+"]):
        out = run(capsys, a, b, "--rule=raw", *options)
        row = next(row for row in out.splitlines() if row.startswith("raw   48     CER"))
        verdicts[len(options)] = row.split(maxsplit=7)[-1].endswith("yes")
    assert verdicts == {0: True, 1: False}


def test_lines_pair_by_path_whatever_their_order(tmp_path):
    lines = [Reading(path, str(i), str(i), 0) for i, path in enumerate(["x", "y", "x", "z"])]
    first, second, alone = compare.paired(lines, [lines[3], *lines[:3], Reading("n", "", "", 0)])
    assert first == second == lines and alone == 1
    with pytest.raises(ValueError, match="x is labelled '0' on one side and '7'"):
        compare.paired(lines, [Reading("x", "7", "", 1)])
    with pytest.raises(ValueError, match="no line in common; .*'x'.*'n'"):
        compare.paired(lines, [Reading("n", "", "", 0)])


def row_of(out, rate="CER"):
    return next(row for row in out.splitlines() if row.startswith("raw") and f" {rate} " in row)


def test_runs_of_one_recogniser_are_counted_together(tmp_path, capsys):
    """Two runs with every error in other lines: each line has one error of both, so nothing varies
    from line to line. As 96 lines of their own, the interval would have a width."""
    a, b = save(tmp_path / "a", [2, 0] * 24), save(tmp_path / "b", [0, 2] * 24)
    out = run(capsys, f"{a},{b}", "--rule=raw", "--group_by=^[^/]+")
    assert "words: 96 lines of 2 runs in 12 groups" in out and "by line" in out
    assert row_of(out).split(maxsplit=4)[3:] == ["10.0", "[10.0, 10.0]  [10.0, 10.0]"]
    assert any(row.split() == ["a", "960", "0", "96", "0"] for row in out.splitlines())
    files = ",".join(str(readings.file_of(folder, "words")) for folder in (a, b))
    assert "readings: 96 lines of 2 runs" in run(capsys, files)


def test_several_pairs_are_one_comparison(tmp_path, capsys):
    """As the same readings in two joined files, whose paths say the run; and run by run, even where
    one has lost a line."""
    errors = {"a": [1] * 48, "b": [2, 1] * 24, "c": [3] * 48, "d": [1] * 48}
    a, b, c, d = (save(tmp_path / name, found) for name, found in errors.items())
    options = ["--rule=raw", "--group_by=[^/]+(?=/\\d+.png)"]
    out = run(capsys, f"{a},{b}", f"{c}, {d}", *options)
    assert f"A: {a}, {b}\nB: {c}, {d}\n" in out and "96 lines of 2 runs in 12 groups" in out
    assert row_of(out).split()[3:6] == ["12.5", "20.0", "-7.5"]
    for side, pair in {"left": (a, b), "right": (c, d)}.items():
        lines = [
            line._replace(path=f"{number}/{line.path}")
            for number, folder in enumerate(pair)
            for line in readings.read(readings.file_of(folder, "words"))
        ]
        readings.write(readings.file_of(tmp_path / side, "words"), lines)
    by_group = lambda text: row_of(text).split("[")[-1]
    assert by_group(run(capsys, tmp_path / "left", tmp_path / "right", *options)) == by_group(out)

    lost = readings.file_of(c, "words")
    readings.write(lost, readings.read(lost)[1:])
    out = run(capsys, f"{a},{b}", f"{c},{d}", "--rule=raw")
    assert "95 lines of 2 runs" in out and "1 lines that only one of them has read" in out
    assert row_of(out).split()[5] == "-7.4"  # 47 lines of -2 and 48 of 0.5, of 950 characters
    with pytest.raises(ValueError, match="A names 2 runs and B 1: name as many on both sides"):
        run(capsys, f"{a},{b}", c)


def test_runs_together_have_a_set_in_common(tmp_path, capsys):
    a, b = save(tmp_path / "a", [1] * 48), save(tmp_path / "b", [1] * 48, "other")
    with pytest.raises(ValueError, match="no set was read by all .*/a words; .*/b other"):
        run(capsys, f"{a},{b}")
    save(tmp_path / "b", [3] * 48)
    out = run(capsys, f"{a},{b}", "--rule=raw")
    assert "words: 96 lines of 2 runs" in out and "other" not in out.replace("other-", "")
    comma = save(tmp_path / "a,b", [4] * 48)  # a folder that is there has its own name
    assert row_of(run(capsys, comma, "--rule=raw")).split()[3] == "40.0"


def test_files_and_sets(tmp_path, capsys):
    a = save(tmp_path / "a", [1] * 48)
    save(tmp_path / "a", [0] * 48, "more")
    b = readings.file_of(save(tmp_path / "b", [1] * 48, "other"), "other")
    assert run(capsys, a, "--set=more").count("lines (") == 1
    assert "A - B" in run(
        capsys, readings.file_of(a, "words"), b
    )  # two files, whatever their names
    with pytest.raises(ValueError, match="has read more, words and .* other: evaluate both"):
        run(capsys, a, tmp_path / "b")
    teacher = save(tmp_path / "c", [1] * 48)  # each has read one set, the student its own folder
    assert "48 lines" in run(capsys, teacher, tmp_path / "b")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Records, and what they say: {id: text}."""
    folder = readers.records(tmp_path_factory.mktemp("truth") / "records")
    mixture = records.open_sets(f"{folder}@validation", labelled=True)
    return folder, {record.id: record.text for record in mixture.read(range(len(mixture)))}


def judge(capsys, *argv):
    """What is printed, and what is told on the terminal."""
    with flagsaver.flagsaver():
        compare.main(flags.FLAGS(["compare", *map(str, argv), "--rule=raw", "--errors=1"]))
    return capsys.readouterr()


def predicted(path, texts):
    table = predict.Table(path)
    for name, text, error in texts:
        table.write(Prediction(name, text, 0.5, [], error))
    table.close()
    return path


@pytest.mark.parametrize("suffix", ["tsv", "jsonl"])
@pytest.mark.parametrize("split", ["", "@validation"])
def test_what_predict_wrote_is_judged_by_the_labels(labelled, tmp_path, capsys, suffix, split):
    """Two characters too many, an image that could not be read, a line that is not there, and one
    that is of no record. A separator of lines that Python knows is no end of a line."""
    folder, texts = labelled
    one, bad, missing, *others = texts
    rows = [(one, texts[one] + "\u2028x", ""), (bad, "", "no image"), ("a stranger", "?", "")]
    rows += [(name, texts[name], "") for name in others]
    file = predicted(tmp_path / f"read.{suffix}", rows)
    out, told = judge(capsys, file, f"--truth={folder}{split}")
    chars = sum(len(text) for name, text in texts.items() if name != missing)
    row = next(row for row in out.splitlines() if row.startswith("raw ")).split()
    assert row[1:4] == [str(len(texts) - 1), "CER", f"{100 * (2 + len(texts[bad])) / chars:.1f}"]
    assert f"1 labelled lines of {folder}{split} are not in" in told and missing in told
    assert f"1 lines of {file} are not of {folder}" in told


def test_records_of_one_name_are_judged_in_their_order(labelled, tmp_path, capsys):
    folder, texts = labelled
    rows = [(name, text, "") for name, text in texts.items()]
    file = predicted(tmp_path / "read.tsv", [*rows, *((name, "", "") for name in texts)])
    out, told = judge(capsys, file, f"--truth={folder},{folder}")
    row = next(row for row in out.splitlines() if row.startswith("raw ")).split()
    assert row[1:4] == [str(2 * len(texts)), "CER", "50.0"] and not told


def test_a_run_beside_a_file_of_predict(labelled, tmp_path, capsys):
    folder, texts = labelled
    lines = [Reading(name, text, text, 0, 0.5) for name, text in texts.items()]
    for name in ("records", "more"):
        readings.write(readings.file_of(tmp_path / "run", name), lines)
    file = predicted(tmp_path / "read.tsv", [(name, "", "") for name in texts])
    out, _ = judge(capsys, tmp_path / "run", file, "--set=records", f"--truth={folder}")
    row = next(row for row in out.splitlines() if row.startswith("raw   "))
    assert row.split()[3:6] == ["0.0", "100.0", "-100.0"]


def test_a_file_of_predict_needs_its_truth(labelled, tmp_path, capsys):
    folder, _ = labelled
    file = predicted(tmp_path / "read.tsv", [])
    with pytest.raises(ValueError, match="names no truth: .*--truth=RECORDS"):
        run(capsys, file)
    with pytest.raises(ValueError, match="none of the 8 labelled lines .*'line 0'"):
        run(capsys, file, f"--truth={folder}@validation")
    with pytest.raises(FileNotFoundError, match="--truth=.*nothing holds no records"):
        run(capsys, file, f"--truth={tmp_path}/nothing")
    file.write_text("anything")
    with pytest.raises(ValueError, match="line 1 is no reading of tools.predict"):
        run(capsys, file, f"--truth={folder}@validation")


def test_a_table_without_a_line_is_one_sentence(tmp_path, capsys):
    a, b = save(tmp_path / "a", []), save(tmp_path / "b", [1] * 48)
    file = f"{a}/readings-words.tsv"
    for argv in ([a], [file], [a, b], [file, file], [f"{b},{a}"]):
        with pytest.raises(ValueError, match="a.* holds no line of (words|readings): name others"):
            run(capsys, *argv)


def test_flags_that_no_source_needs_are_refused(labelled, tmp_path, capsys):
    a = save(tmp_path / "a", [1] * 48)
    file, mine = f"{a}/readings-words.tsv", predicted(tmp_path / "mine.tsv", [])
    for argv in ([file], [a], [a, file], [a, a]):
        with pytest.raises(ValueError, match="--truth=.* is for files of tools.predict, and none"):
            run(capsys, *argv, "--truth=nonsense")
    for argv in ([file], [file, file], [file, mine, f"--truth={labelled[0]}"]):
        with pytest.raises(ValueError, match="--set=words is for work folders; none is named"):
            run(capsys, *argv, "--set=words")


@pytest.mark.parametrize(
    "argv, words",
    [
        (["{a}", "--rule=best"], "no scoring rule 'best'"),
        (["{a}", "--set=none"], "no readings of 'none'; it has: words"),
        (["{a}", "--group_by=^9"], "matches no part of 44 of 48 paths"),
        (["{a}/nothing"], "holds no readings-SET.tsv"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, argv, words):
    a = save(tmp_path / "a", [1] * 48)
    with pytest.raises(ValueError, match=words):
        run(capsys, *(part.format(a=a) for part in argv))
    with pytest.raises(app.UsageError, match="one or two work folders"):
        run(capsys, a, a, a)
