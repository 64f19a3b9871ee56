"""Report and results: figures come from the logs, land in the right cell, and the page needs
nothing beside itself.
"""

import base64
import html
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from dig_jax.tools import (
    html_page,
    report,
    report_attention,
    report_charts,
    report_lines,
    results,
    spreads,
)
from dig_jax.workdir import read as runs
from dig_jax.workdir import readings
from tests.evaluators import lines


@pytest.fixture
def workdir(tmp_path):
    """make(name, rows, **config) -> a work folder with that log."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

    def make(
        name,
        rows,
        *,
        objective=None,
        frozen=False,
        kind="linear",
        init_from="",
        subset=None,
        seed=0,
        **more,
    ):
        method = (
            {"name": "dig", "objective": objective}
            if objective
            else {"name": "recognize", "frozen": frozen, "heads": {"ctc": {"kind": kind}}}
        )
        config = {
            "method": method,
            "init_from": str(init_from),
            "seed": seed,
            "batch_size": 8,
            "data": {"train": "lines@train", "subset": subset},
            "total": {"steps": 10},
            **more,
        }
        path = tmp_path / name
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config))
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return make


def evaluations(*cers, dataset="val"):
    return [
        {
            "step": 10 * i,
            f"eval/{dataset}/cer": cer,
            f"eval/{dataset}/wer": 1 - cer,
            f"eval/{dataset}/word_accuracy": cer / 2,
        }
        for i, cer in enumerate(cers, 1)
    ]


def test_best_is_the_lowest_along_the_run_and_its_companions_come_from_the_same_step(workdir):
    run = runs.load(workdir("a", evaluations(0.5, 0.2, 0.4)))
    assert run.at_best("val", "cer") == 0.2
    assert run.at_best("val", "wer") == 0.8
    assert run.at_best("val", "nothing") is run.at_best("nothing", "cer") is None


def test_a_test_set_is_reported_where_validation_was_lowest(workdir):
    both = [
        {"step": step, "eval/a/cer": val, "eval/b/cer": 0.5, "eval/a-test/cer": test}
        for step, val, test in ((1, 0.4, 0.10), (2, 0.2, 0.30), (3, 0.3, 0.20))
    ]
    assert runs.load(workdir("both", both)).at_best("a-test", "cer") == 0.30
    # Without validation of the same folder, the mean of all validation sets decides.
    others = [{"step": 1, "eval/a/cer": 0.1, "eval/c-test/cer": 0.6}]
    others += [{"step": 2, "eval/a/cer": 0.2, "eval/c-test/cer": 0.5}]
    assert runs.load(workdir("others", others)).at_best("c-test", "cer") == 0.6
    # Without any, nothing may be chosen: the last evaluation counts.
    alone = evaluations(0.2, 0.4, dataset="a-test")
    assert runs.load(workdir("alone", alone)).at_best("a-test", "cer") == 0.4


def test_the_config_tells_a_test_set_from_a_validation_set_of_a_like_name(workdir):
    evals = {"recognition": {"datasets": {"iam-test": "x/a@validation", "final": "x/b@test"}}}
    rows = [
        {"step": 1, "eval/iam-test/cer": 0.2, "eval/final/cer": 0.5},
        {"step": 2, "eval/iam-test/cer": 0.3, "eval/final/cer": 0.4},
    ]
    run = runs.load(workdir("a", rows, evals=evals))
    assert run.validation == {"iam-test"} and run.at_best("final", "cer") == 0.5


def halves(*pairs):
    return [
        {"step": i, "eval/val/cer": (e + o) / 2, "eval/val/cer_even": e, "eval/val/cer_odd": o}
        for i, (e, o) in enumerate(pairs, 1)
    ]


def test_the_honest_figure_reads_each_half_where_the_other_half_chose(workdir):
    run = runs.load(workdir("a", halves((0.20, 0.40), (0.30, 0.26), (0.32, 0.24))))
    # even chooses the first, odd the third; the lowest mean is the second or third
    assert run.at_best("val", "cer") == pytest.approx(0.28)
    assert runs.honest(run.candidates("val")) == pytest.approx((0.40 + 0.32) / 2)
    assert runs.honest(runs.load(workdir("b", evaluations(0.3))).candidates("val")) is None
    (row,) = report.comparison([run])
    assert row[5:7] == ("28.0 %", "36.0 %")
    assert "optimistic by 8.0 points" in report.page([run])


def test_heads_are_choices_like_steps(workdir):
    row = {"step": 1, "eval/val/cer": 0.25}
    for head, even, odd in (("lr_1", 0.2, 0.4), ("lr_2", 0.3, 0.2)):
        row |= {f"eval/val/cer_even@{head}": even, f"eval/val/cer_odd@{head}": odd}
        row |= {f"eval/val/cer@{head}": (even + odd) / 2}
    run = runs.load(workdir("a", [row]))
    assert runs.honest(run.candidates("val")) == pytest.approx((0.4 + 0.3) / 2)


def test_runs_judged_on_a_test_set_alone_cannot_be_swept(workdir):
    many = [
        runs.load(workdir(name, evaluations(cer, dataset="a-test"), optim=optim(lr)))
        for name, cer, lr in (("a", 0.3, 1e-3), ("b", 0.2, 2e-3))
    ]
    with pytest.raises(ValueError, match="test set alone.*validation set along with it"):
        results.by_seed(many)
    assert results.by_seed(many[:1])[0]["figures"][0][3] == 0.3


def test_the_table_shows_the_honest_figure_and_how_lucky_the_lowest_is(workdir):
    many = [runs.load(workdir("a", halves((0.20, 0.40), (0.30, 0.26))))]
    many += [runs.load(workdir("b", halves((0.22, 0.24)), optim=optim(1e-3)))]
    records = results.by_seed(many)
    assert "| **23.0 → 31.0** |" in results.markdown(results.cells(records))
    assert "1 figure is optimistic by 8.0 points" in results.optimism(records)
    old = [{**records[0], "figures": [["p", "l", "d", 0.2, "commit"]]}]
    assert "| **20.0** |" in results.markdown(results.cells(old)) and not results.optimism(old)


def test_start_protocol_and_labels_are_read_from_the_configs(workdir):
    pretrained = workdir("p", [], objective="gen")
    run = runs.load(
        workdir("a", evaluations(0.3), frozen=True, kind="bilstm", init_from=pretrained, subset=0.1)
    )
    assert (run.start, run.protocol, run.labels) == ("gen", "frozen, BiLSTM CTC", "10 %")
    scratch = runs.load(workdir("b", evaluations(0.3), subset=100))
    assert (scratch.start, scratch.protocol, scratch.labels) == (
        "random",
        "fine-tuned, linear CTC",
        "100 lines",
    )
    assert not runs.load(pretrained).is_recogniser


def test_a_start_that_learnt_to_read_is_named_by_what_it_read(workdir):
    other = workdir("r", [], init_from=workdir("p", [], objective="gen"))
    run = runs.load(workdir("a", evaluations(0.3), init_from=other, subset=100))
    assert run.start == "gen, reader of lines"
    alone = workdir("b", evaluations(0.3), init_from=workdir("s", []))
    assert runs.load(alone).start == "reader of lines"


def test_seeds_are_averaged_and_rates_of_one_seed_are_a_sweep(workdir):
    many = [
        runs.load(workdir(f"s{i}", evaluations(cer), seed=seed))
        for i, (cer, seed) in enumerate([(0.30, 0), (0.20, 0), (0.25, 0), (0.40, 1)])
    ]
    table = results.cells(results.by_seed(many))
    assert table["fine-tuned, linear CTC", "100 %", "val"]["random"] == {
        0: (0.20, None),
        1: (0.40, None),
    }
    assert "30.0 ± 10.0 (2)" in results.markdown(table)


def optim(lr, **rules):
    return {"lr": lr, "rules": [[pattern, rule] for pattern, rule in rules.items()]}


def test_rates_seeds_and_what_changes_no_number_may_differ_in_a_cell(workdir):
    one = workdir("p0", [], objective="dig", seed=0)
    two = workdir("p1", [], objective="dig", seed=1)
    slow = optim(1e-3, **{"^encoder/": {"lr_scale": 0.1}, "": {}})
    many = [
        workdir("a", evaluations(0.3), init_from=one, optim=optim(1e-3), log={"every_steps": 1}),
        workdir(
            "b", evaluations(0.2), init_from=two, optim=optim(2e-3), log={"every_steps": 2}, seed=1
        ),
        workdir("c", evaluations(0.2), init_from=two, optim=slow, seed=2),
    ]
    table = results.cells(results.by_seed(map(runs.load, many)))
    assert table["fine-tuned, linear CTC", "100 %", "val"]["dig"] == {
        seed: (cer, None) for seed, cer in enumerate((0.3, 0.2, 0.2))
    }


@pytest.mark.parametrize(
    "mine, other, key",
    [
        ({"total": {"steps": 10}}, {"total": {"steps": 20}}, "total.steps"),
        ({"batch_size": 8}, {"batch_size": 16}, "batch_size"),
        ({"optim": {"b2": 0.98}}, {"optim": {"b2": 0.999}}, "optim.b2"),
        ({"optim": optim(1, a={"freeze": True})}, {"optim": optim(1)}, "optim.rules"),
        (
            {"init_parts": ["params/encoder"]},
            {"init_parts": ["teacher/encoder->params/encoder"]},
            "init_parts",
        ),
    ],
)
def test_runs_that_differ_in_anything_else_are_not_merged(workdir, mine, other, key):
    source = workdir("p", [], objective="dig")
    many = [
        workdir(name, evaluations(0.3), init_from=source, **more)
        for name, more in (("a", mine), ("b", other))
    ]
    with pytest.raises(ValueError, match=rf"{many[0]} and {many[1]} .*{key}"):
        results.cells(results.by_seed(map(runs.load, many)))


def test_two_pretrainings_are_not_one_start(workdir):
    sources = [workdir(f"p{n}", [], objective="dig", total={"steps": n}) for n in (10, 20)]
    many = [
        workdir(f"a{i}", evaluations(0.3), init_from=source) for i, source in enumerate(sources)
    ]
    with pytest.raises(ValueError, match=r"init_from\.total\.steps"):
        results.cells(results.by_seed(map(runs.load, many)))
    gone = [workdir(f"g{i}", evaluations(0.3), init_from=f"/gone/{i}/dig") for i in range(2)]
    with pytest.raises(ValueError, match=r"differ in init_from"):
        results.cells(results.by_seed(map(runs.load, gone)))


def test_every_watched_metric_has_a_curve(workdir):
    names = ("pixel", "contrast", "q_std", "infeasible_frac", "teacher_momentum")
    run = runs.load(
        workdir("a", [{"step": step, **{f"train/{n}": step for n in names}} for step in (1, 2)])
    )
    assert report_charts.curves([run]).count("<svg") == len(names)


def test_a_row_a_start_and_the_lowest_figure_of_a_column_is_bold(workdir):
    pretrained = workdir("p", [{"step": 5, "train/loss": 1.0}], objective="dig")
    many = [
        runs.load(workdir("a", evaluations(0.4))),
        runs.load(workdir("b", evaluations(0.3), init_from=pretrained)),
        runs.load(workdir("c", evaluations(0.5, dataset="other"))),
    ]
    costs = {"dig": {"crops": "1 k"}}
    assert results.markdown(results.cells(results.by_seed(many)), costs).splitlines() == [
        "Figures of a cell: other / val.",
        "",
        "| start | crops | fine-tuned, linear CTC, 100 % |",
        "| --- | --- | --- |",
        "| random |  | **50.0** / 40.0 |",
        "| dig | 1 k | - / **30.0** |",
    ]


def test_costs_come_from_the_log_of_the_pretraining_and_from_bench_step(workdir, tmp_path):
    pretrained = workdir(
        "p", [{"step": 9000, "train/loss": 1.0}], objective="gen", total={"steps": 12000}
    )
    (tmp_path / "bench").mkdir()
    line = json.dumps({"ms_a_step": 105.4, "temporary_mb": 240.2, "arguments_mb": 12.6})
    (tmp_path / "bench" / "gen.json").write_text(f"105 ms a step\n{line}\n")
    many = [runs.load(workdir("a", evaluations(0.3), init_from=pretrained))]
    assert results.costs(results.by_seed(many), tmp_path) == {
        "gen": {"crops": "72 k", "ms a step": "105", "memory": "253 MB"}
    }


def test_imported_weights_do_not_say_what_they_have_seen(workdir, tmp_path):
    """Their config.json has a network and a picture format, and no training."""
    encoder, reader = {"name": "imported"}, {"name": "recognize", "heads": {}}
    earlier = {"name": "imported", "objective": "weights/gen48"}
    imports = ((encoder, "weights/gen48"), (reader, "weights/gen48"), (earlier, None))
    for name, (method, source) in zip("abc", imports):
        (tmp_path / "start").mkdir(exist_ok=True)
        config = {"data": {}, "method": method} | ({"imported": source} if source else {})
        (tmp_path / "start/config.json").write_text(json.dumps(config))
        run = runs.load(workdir(name, evaluations(0.3), init_from=tmp_path / "start"))
        (record,) = results.by_seed([run])
        assert (record["start"], record["crops"]) == ("gen48", None)
        table = results.markdown(results.cells([record]), results.costs([record], tmp_path))
        assert "gen48" in table


def test_a_run_is_finished_when_its_log_reaches_the_last_step(workdir, tmp_path):
    assert runs.load(workdir("a", evaluations(0.5), total={"steps": 10})).finished
    assert not runs.load(workdir("b", evaluations(0.5), total={"steps": 20})).finished
    (workdir("c", []) / "metrics.jsonl").unlink()  # just begun
    assert not runs.load(tmp_path / "c").finished and runs.load(tmp_path / "c").datasets() == []
    epochs = workdir("d", evaluations(0.5), total={"steps": None, "epochs": 3})
    start = {"step": 0, "commit": "c", "devices": "1", "machine": "m", "jax": "1", "total": 30}
    (epochs / "starts.jsonl").write_text(json.dumps(start) + "\n")
    assert runs.load(epochs).state == "unfinished: step 10 of 30"


def test_unfinished_runs_are_marked(workdir):
    run = runs.load(workdir("b", evaluations(0.5), total={"steps": 20}))
    assert report.comparison([run])[0][0] == "b (unfinished: step 10 of 20)"
    assert "10 (unfinished: step 10 of 20)" in report.summary(run)
    done = runs.load(workdir("a", evaluations(0.5)))
    assert "unfinished" not in report.page([done])


def test_an_evaluation_tells_of_the_recogniser_that_it_evaluates(workdir):
    pretrained = workdir("p", [], objective="gen")
    trained = workdir("t", evaluations(0.3), init_from=pretrained, subset=0.1)
    judged = {"step": 0, "eval/a-test/cer": 0.4, "eval/a-test/unknown_chars": 7.0}
    path = workdir("e", [judged], init_from=trained, total={"steps": 0})
    run = runs.load(path)
    assert (run.start, run.labels, run.finished) == ("gen", "10 %", True)
    assert "characters of a-test that it cannot write" in report.summary(run)
    page = report.page([run])
    assert "Character error rate on validation" not in page and "Figures" in page
    shutil.rmtree(trained)
    assert (runs.load(path).start, runs.load(path).labels) == ("unknown", "unknown")


def test_a_page_shows_some_readings_and_names_the_file_of_all(workdir):
    path = workdir("a", evaluations(0.5))
    (path / "pictures").mkdir()
    lines = [{"truth": f"t{i}", "reading": f"t{i}", "png": "AAAA"} for i in range(3000)]
    (path / "pictures" / "readings-val.json").write_text(json.dumps({"lines": lines}))
    page = report_lines.readings([runs.load(path)])
    assert page.count("<img") == report_lines.READINGS and "of 3000 lines" in page
    assert "pictures/readings-val.json" in page


def table_in(path, folder, *options):
    """What stands between the markers after the tool has run."""
    with flagsaver.flagsaver():
        flags.FLAGS(["results", f"--readme={path}", *options])
        results.main(["results", str(folder)])
    head, table, rest = results.between_markers(path.read_text())
    assert (head, rest) == ("before\n", "\nafter\n")  # and nothing else is touched
    return table.strip().splitlines()


def test_rows_whose_logs_are_gone_are_kept_on_demand(workdir, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    for start, cers in {"gen": (0.2, 0.4), "dig": (0.3, 0.3)}.items():
        source = workdir(f"there/{start}", [{"step": 8, "train/loss": 1.0}], objective=start)
        for dataset, cer in zip(("one", "two"), cers, strict=True):
            workdir(f"there/{start}_{dataset}", evaluations(cer, dataset=dataset), init_from=source)
    both = table_in(readme, tmp_path / "there", "--keep")  # there is nothing to keep yet
    assert both[4:6] == ["| dig | 0 k | 30.0 / **30.0** |", "| gen | 0 k | **20.0** / 40.0 |"]
    source = workdir("here/gen", [{"step": 8, "train/loss": 1.0}], objective="gen")
    for dataset in ("one", "two"):
        workdir(f"here/gen_{dataset}", evaluations(0.1, dataset=dataset), init_from=source)
    kept = table_in(readme, tmp_path / "here", "--keep")
    assert kept[:4] == both[:4] and kept[4:6] == [
        "| dig | 0 k | 30.0 / 30.0 |",
        "| gen | 0 k | **10.0** / **10.0** |",
    ]
    assert table_in(readme, tmp_path / "here", "--keep") == kept  # again: nothing is said twice
    assert not any("| dig |" in line for line in table_in(readme, tmp_path / "here"))
    with pytest.raises(SystemExit, match="cannot be kept beside"):
        workdir("here/alone", evaluations(0.1, dataset="three"), init_from=source)
        table_in(readme, tmp_path / "here", "--keep")
    readme.write_text("no markers")
    with pytest.raises(SystemExit, match=f"{readme}.*needs a line"):
        table_in(readme, tmp_path / "here")


def test_figures_outlive_their_work_folders(workdir, tmp_path):
    readme, file = tmp_path / "README.md", tmp_path / "figures.jsonl"
    readme.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    source = workdir("one/pretrain/gen", [{"step": 1000, "train/loss": 1.0}], objective="gen")
    workdir("one/a", evaluations(0.3), init_from=source)
    workdir("one/b", evaluations(0.2), init_from=source, optim=optim(3e-3))
    workdir("one/c", evaluations(0.6), init_from=source, frozen=True)
    assert "| gen | 8 k | **20.0** | **60.0** |" in table_in(
        readme, tmp_path / "one", f"--figures={file}"
    )
    shutil.rmtree(tmp_path / "one")
    source = workdir(
        "two/pretrain/gen", [{"step": 1000, "train/loss": 1.0}], objective="gen", seed=1
    )
    workdir("two/a", evaluations(0.4), init_from=source, seed=1)  # another seed
    workdir("two/c", evaluations(0.5), frozen=True)  # another start
    for _ in range(2):  # a second time changes nothing
        both = table_in(readme, tmp_path / "two", f"--figures={file}")
        assert both[2:4] == [
            "| random |  | - | **50.0** |",
            "| gen | 8 k | **30.0 ± 10.0 (2)** | 60.0 |",
        ]
    workdir("two/d", evaluations(0.1), init_from=source, frozen=True, seed=1)
    shutil.rmtree(tmp_path / "two" / "a")
    shutil.rmtree(source)  # the table goes on knowing how long it was
    table = table_in(readme, tmp_path / "two", f"--figures={file}")
    assert "| gen | 8 k | **30.0 ± 10.0 (2)** | **35.0 ± 25.0 (2)** |" in table
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(record["start"], record["seed"], record["crops"], len(record["figures"])) for record in records] == [
        ("gen", 0, 8000, 2), ("gen", 1, 8000, 2), ("random", 0, None, 1)
    ]  # fmt: skip
    assert str(tmp_path) not in file.read_text()  # nor any other path of this machine
    file.write_text("{broken\n")
    with pytest.raises(SystemExit, match=f"{file} holds a line that is no JSON"):
        table_in(readme, tmp_path / "two", f"--figures={file}")


def test_a_figure_names_the_commit_of_the_rate_it_is_of_and_replaces_the_one_of_an_earlier_machine(
    workdir,
):
    source = workdir("p", [], objective="gen")
    for name, cer, lr in (("a", 0.3, 1e-3), ("b", 0.2, 2e-3), ("c", 0.25, 3e-3)):
        start = {"step": 0, "commit": name, "devices": "1 x cpu", "machine": "CPU", "jax": "1"}
        path = workdir(name, evaluations(cer), init_from=source, optim=optim(lr))
        (path / "starts.jsonl").write_text(json.dumps(start) + "\n")
    cell, other = (["fine-tuned, linear CTC", labels, "val"] for labels in ("100 %", "10 %"))
    records = results.by_seed(runs.load(source.parent / name) for name in "abc")
    assert records[0]["figures"] == [[*cell, 0.2, runs.load(source.parent / "b").origin, None]]
    earlier = [
        {
            "start": "gen",
            "seed": 0,
            "crops": 8,
            "pretrained": "z",
            "figures": [[*cell, 0.1, "z"], [*other, 0.1, "z"]],
        }
    ]
    assert results.merged(records, earlier)[0]["figures"] == [
        [*other, 0.1, "z"],
        *records[0]["figures"],
    ]


def test_commits_of_kept_rows_stay_without_those_that_are_replaced():
    old = "| start |\n\nCommit and machine of the runs of dig, gen: abc on 1 x cpu (4 runs)."
    assert results.kept_origins(old, {"gen"}) == [
        "Commit and machine of the runs of dig: abc on 1 x cpu (4 runs)."
    ]
    assert results.kept_origins(old, {"gen", "dig"}) == []


def test_page_is_self_contained_and_escapes_what_was_read(workdir):
    path = workdir("a", evaluations(0.5, 0.2))
    picture = cv2.imencode(".png", np.zeros((4, 8), np.uint8))[1].tobytes()
    (path / "pictures").mkdir()
    (path / "pictures" / "reconstruction-00000010.png").write_bytes(picture)
    line = {"truth": "<b>so</b>", "reading": "so", "png": base64.b64encode(picture).decode()}
    (path / "pictures" / "readings-val.json").write_text(json.dumps({"lines": [line]}))
    page = report.page([runs.load(path)])
    assert "&lt;b&gt;so&lt;/b&gt;" in page and "<b>so" not in page
    assert page.count("data:image/png;base64,") == 2 and "<svg" in page
    assert not re.search(r"(src|href)=['\"]?(http|/|\.)", page)


def test_nothing_of_a_work_folder_becomes_markup(workdir):
    """Names, configs, metrics and pictures are written by whoever made the folder."""
    evil = '<script>x</script>\'" onerror="y'
    rows = [{"step": s, f"eval/{evil}/cer": 0.5, "train/loss": 1.0} for s in (1, 2)]
    path = workdir("a$b$ <i>", rows, seed=evil, data={"train": evil}, batch_size=evil)
    (path / "pictures").mkdir()
    line = {"truth": evil, "reading": [evil], "png": evil}
    name = "readings-<script>x<.json"
    (path / "pictures" / name).write_text(json.dumps({"lines": [line]}))
    page = report.page([runs.load(path), runs.load(path)])
    assert "<script" not in page and "<i>" not in page and 'onerror="y' not in page


def test_comparison_has_one_row_a_recogniser(workdir):
    many = [
        runs.load(workdir("p", [{"step": 1, "train/loss": 1.0}], objective="dig")),
        runs.load(workdir("a", evaluations(0.25))),
    ]
    rows = report.comparison(many)
    assert [row[0] for row in rows] == ["a"] and rows[0][5] == "25.0 %"
    assert "Comparison" in report.page(many)


def test_a_folder_that_is_no_work_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json"):
        runs.load(tmp_path)


def with_readings(path, errors=(0, 0, 3, 3, 1, 1)):
    lines = [
        readings.Reading(f"{'abc'[i // 2]}/{i}", "tint", "tint"[: 4 - n], n, 0.5)
        for i, n in enumerate(errors)
    ]
    readings.write(readings.file_of(path, "val"), lines)
    return path


def test_intervals_by_line_and_by_group_of_training_and_evaluation_folders(workdir, capsys):
    cer = evaluations(8 / 24)
    train = with_readings(workdir("runs/train", cer))
    only = with_readings(workdir("runs/only", cer, init_from=train, total={"steps": 0}))
    with flagsaver.flagsaver(group_by="^[^/]+"):
        report.main(["", str(train), str(only)])
    printed = capsys.readouterr().out
    rows = [row.split() for row in printed.splitlines() if row.startswith(("train ", "only "))]
    for row in rows[2:]:  # below those of the comparison
        low, high = float(row[-5].strip("[,")), float(row[-4].strip("]"))
        assert row[-6] == "33.3" and row[-3] == "3" and 0 < low < 33.3 < high < 75
        assert row[-2:] == ["[0.0,", "75.0]"]  # three works: any of them thrice
    page = (train / "report.html").read_text()
    assert "<h2>Intervals</h2>" in page and page.count("[0.0, 75.0]") == 2
    with flagsaver.flagsaver(intervals=True):
        results.main(["", str(train.parent)])
    table = capsys.readouterr().out
    assert "| only | random | 100 % | val | 6 | 33.3 | [" in table and table.count("| - | - |") == 2
    with flagsaver.flagsaver(group_by="^9"), pytest.raises(SystemExit, match="no part of 6 of 6"):
        report.main(["", str(train)])


def test_every_run_is_compared_with_the_best_line_by_line(workdir, capsys):
    folders = [
        with_readings(workdir(f"runs/{name}", evaluations(sum(errors) / 24)), errors)
        for name, errors in {
            "worst": (3, 3, 3, 3, 2, 2),
            "best": (1, 1, 1, 1, 0, 0),
            "alike": (0, 2, 1, 1, 0, 1),
            "other": (4,) * 5,  # a line less
        }.items()
    ]
    report.main(["", *map(str, folders)])
    printed = capsys.readouterr().out
    rows = {row.split()[1]: row for row in printed.splitlines() if row.startswith("val ")}
    assert list(rows) == ["alike", "worst", "other"]  # by their CER
    assert rows["worst"].split()[2:4] == ["best", "+50.0"] and rows["worst"].endswith("yes")
    assert "[+50.0, +50.0]" in rows["worst"] and rows["alike"].endswith("not shown")
    assert "has other lines" in rows["other"]
    assert "<h2>Differences</h2>" in (folders[0] / "report.html").read_text()
    with flagsaver.flagsaver(intervals=True, group_by="^[^/]+"):
        results.main(["", str(folders[0].parent)])
    assert "| val | worst | best | +50.0 | [+50.0, +50.0] | yes |" in capsys.readouterr().out
    with_readings(workdir("more/best", evaluations(0.1)), (0,) * 6)  # another of that name
    with flagsaver.flagsaver(intervals=True):
        results.main(["", str(folders[0].parents[1])])
    assert "| val | runs/best | more/best | +16.7 |" in capsys.readouterr().out
    report.main(["", str(folders[0])])  # alone, it has nothing to differ from
    assert "points more" not in capsys.readouterr().out


def test_an_evaluation_folder_alone_has_intervals(workdir, capsys):
    train = workdir("train", evaluations(0.5))
    only = workdir("runs/only", evaluations(8 / 24), init_from=train, total={"steps": 0})
    with pytest.raises(SystemExit, match="no work folder of a recogniser"):
        results.main(["", str(only.parent)])
    with_readings(only)
    with flagsaver.flagsaver(intervals=True):
        results.main(["", str(only.parent)])
    assert capsys.readouterr().out.startswith("| run | start | labels |")


def test_an_unfinished_run_has_no_interval_either(workdir, capsys):
    done = with_readings(workdir("runs/done", evaluations(8 / 24)))
    with_readings(workdir("runs/open", evaluations(8 / 24), total={"steps": 10**6}, seed=1))
    with flagsaver.flagsaver(intervals=True):
        results.main(["", str(done.parent)])
    said = capsys.readouterr()
    assert "| done |" in said.out and "| open |" not in said.out and "open stands at" in said.err


def gains(workdir, random=0.4, gen=0.1, **more):
    """Two runs that differ in their start: random-0 and gen-0."""
    source = workdir("p", [{"step": s, "train/loss": 2.0 / s} for s in (1, 10)], objective="gen")
    shared = {"subset": 100, **more}
    many = [
        workdir("x/random-0", evaluations(random), **shared),
        workdir("x/gen-0", evaluations(gen), init_from=source, **shared),
    ]
    return [runs.load(path) for path in [*many, source]]


def test_the_headline_is_what_pretraining_gained(workdir):
    *readers, source = gains(workdir)
    words = report.headline(readers, [])
    assert words == (
        "With 100 labelled lines, the character error rate on the validation lines falls from "
        "40.0 % (random weights) to 10.0 % (pre-trained: gen): 75 % fewer errors."
    )
    assert html.escape(words) in report.page([*readers, source]).replace("&nbsp;", " ")
    assert report.headline([source], []).startswith(
        "p pre-trained an encoder for 10 steps; its loss went from 2 to 0.2"
    )
    one = "random-0 reads the validation lines with a character error rate of 40.0 %."
    assert report.headline(readers[:1], []) == one


@pytest.mark.parametrize(
    "random, gen, words",
    [
        (
            2.313,
            1.833,
            "from 231.3 % (random weights) to 183.3 % (pre-trained: gen): neither reads",
        ),
        (0.95, 0.10, "from 95.0 % (random weights) to 10.0 % (pre-trained: gen): that from"),
        (0.50, 1.00, "from 50.0 % (random weights) to 100.0 % (pre-trained: gen): the pre-tra"),
    ],
)
def test_the_headline_counts_no_gain_of_what_does_not_read(workdir, random, gen, words):
    """Two runs with `quick`, say: their rates are those of noise."""
    *readers, _ = gains(workdir, random, gen)
    assert words in report.headline(readers, []) and "errors." not in report.headline(readers, [])
    alone = report.headline(readers[1:] if gen > 0.9 else readers[:1], [])
    assert re.search("(random|gen)-0 does not read the validation lines yet; its character", alone)


@pytest.mark.parametrize(
    "name, words",
    [
        ("records", "1,500 validation lines"),
        ("fraktur", "1,500 validation lines of fraktur"),
        ("fraktur-test", "1,500 test lines of fraktur"),
        ("15-century", "1,500 validation lines of 15-century"),
    ],
)
def test_the_headline_says_how_many_lines_of_what(workdir, name, words):
    rows = [{"step": 1, f"eval/{name}/cer": 0.1, f"eval/{name}/lines": 1500}]
    run = runs.load(workdir("a", rows))
    assert report.lines_of(run, name) == words


def test_an_import_is_called_by_its_name_not_by_its_path(workdir):
    source = workdir("e", [], method={"name": "/far/away/mine", "encoder": {}})
    assert runs.load(workdir("a", evaluations(0.4), init_from=source)).start == "mine"


def test_an_import_without_readings_says_how_to_get_them(tmp_path, capsys):
    """As import_weights leaves them: no log, no number of steps."""
    workdirs = []
    for name, method in (("print", {"name": "recognize", "heads": {}}), ("dig", {"name": "dig"})):
        (tmp_path / name).mkdir()
        config = {"imported": name, "method": method, "data": {"channels": 1}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        workdirs.append(str(tmp_path / name))
    report.main(["report", workdirs[0]])
    assert f"evaluate:records=RECORDS --config.init_from={workdirs[0]}" in capsys.readouterr().out
    report.main(["report", workdirs[1]])
    assert "dig is an imported encoder" in capsys.readouterr().out
    report.main(["report", *workdirs])
    assert "2 runs; none of them has read" in capsys.readouterr().out
    assert "None" not in (tmp_path / "print/report.html").read_text()


def test_the_headline_says_harm_and_what_still_runs(workdir):
    words = report.headline(gains(workdir, 0.2, 0.3, total={"steps": 20})[:2], [])
    assert "rises from 20.0 %" in words and "50 % more errors" in words
    assert words.endswith("Not finished yet: random-0, gen-0.")


def test_runs_of_one_name_are_told_apart_by_their_folders(workdir):
    many = [runs.load(workdir(f"{n}/random-0", evaluations(0.3))) for n in (10, 20)]
    assert [run.name for run in runs.told_apart(many)] == ["10/random-0", "20/random-0"]
    assert [run.name for run in runs.told_apart(many[:1])] == ["random-0"]
    assert [run.name for run in runs.told_apart([many[0], many[0]])] == ["random-0"] * 2


def test_columns_of_percentages_are_set_to_the_right_as_a_whole():
    page = html_page.table(("a", "b", "c"), [("10 %", "10 %", ""), ("34 lines", "-", "")])
    right = [bool(re.search(f"<t[dh] class=number>{text}<", page)) for text in ("a", "b", "c")]
    assert right == [False, True, False] and "<td>10 %</td><td class=number>10 %</td>" in page
    assert "<th>a</th>" in html_page.table(("a",), [])


def test_the_cer_stands_beside_the_name(workdir):
    page = report.comparison_table(report.comparison(gains(workdir)[:2]))
    assert re.search(r"<th>run</th><th class=number>CER</th>", page)
    assert re.search(r"<td>gen-0</td><td class=number>10.0 %</td>", page)


def test_bars_carry_the_rate_and_its_interval(workdir):
    path = with_readings(workdir("a", evaluations(8 / 24), total={"steps": 20}))
    (one,) = spreads.spreads([runs.load(path)], None)
    assert one.cer == pytest.approx(8 / 24) and one.by_line[0] < one.cer < one.by_line[1]
    drawn = report_charts.bars([one])
    width, left, whole = (
        float(re.search(pattern, drawn)[1])
        for pattern in (r"bar style='width:([\d.]+)%", r"left:([\d.]+)%", r"%;width:([\d.]+)%")
    )
    scale = width / one.cer
    assert left == pytest.approx(one.by_line[0] * scale, abs=0.02)
    assert left + whole == pytest.approx(one.by_line[1] * scale, abs=0.04) and left + whole < 100
    assert "33.3 %" in drawn and "random open" in drawn and "unfinished: step 10 of 20" in drawn


def test_label_curves_count_the_lines_of_the_records(workdir, tmp_path):
    pairs = [(None, "see"), *[("tin", "tin")] * 20]
    folder = lines.write(tmp_path / "records", pairs, split="train")
    many = [
        runs.load(workdir(f"r{i}", evaluations(0.3), data={"train": str(folder), "subset": subset}))
        for i, subset in enumerate((0.1, 5, None))
    ]
    assert [run.label_count["true"] for run in many] == [2, 5, 20]
    assert report_charts.label_curves(many).count("<svg") == 1
    assert report_charts.label_curves(many[:1]) == ""  # one number of labels is no curve
    gone = runs.load(workdir("g", evaluations(0.3), data={"train": "/gone", "subset": 0.1}))
    assert gone.label_count is None


def pictured(path, name="readings-val.json", **line):
    """The folder with one sample line in it."""
    png = base64.b64encode(cv2.imencode(".png", np.zeros((4, 40), np.uint8))[1]).decode()
    (path / "pictures").mkdir(exist_ok=True)
    line = {"index": 7, "truth": "tin", "png": png, **line}
    (path / "pictures" / name).write_text(json.dumps({"lines": [line]}))
    return path


def test_readings_of_several_runs_stand_below_one_picture(workdir):
    two = [workdir(name, evaluations(0.5)) for name in ("a", "b")]
    pictured(two[0], reading="tin"), pictured(two[1], reading="tos")
    page = report_lines.readings([runs.load(path) for path in two])
    assert page.count("<img") == 1 and page.count("<code") == 3  # the truth, and two readings
    assert "<span>a</span><code class=right>tin</code>" in page
    assert "<span>b</span><code>t<mark>os</mark></code>" in page
    assert "min-width:340px" in page  # 34 px high


def test_a_left_out_character_is_a_dot_and_nothing_read_is_said():
    assert report_lines.differing("tin", "tn") == "t<mark>\N{MIDDLE DOT}</mark>n"
    line = {"truth": "tin", "reading": "", "png": ""}
    assert "(nothing read)" in report_lines.reading([("a", line)], several=False)


def test_characters_stand_where_they_were_seen_and_doubt_is_marked():
    page = report_lines.alignment([["t", 0.9, 0.0, 0.25], ["<", 0.3, 0.25, 0.5]])
    assert "style='left:25.00%;width:25.00%'>&lt;</span>" in page and page.count("unsure") == 1
    for broken in (None, [], [["t", 0.9]], [[1, "x", 2, 3]], "abcd", 7):
        assert report_lines.alignment(broken) == ""


def test_attention_colours_the_columns_that_a_character_looked_at(workdir):
    """Three characters over four frames, of which the picture is 3.5 wide."""
    weights = np.array([[255, 0, 0, 0], [0, 51, 255, 0], [0, 0, 0, 255]], np.uint8)
    blue, orange, green = report_attention.COLOURS[:3]
    (columns,) = report_attention.tinted(weights)
    expected = [blue, 255 - 0.2 * (255 - orange), orange, green]
    np.testing.assert_allclose(columns, expected, atol=0.51)
    steps = report_attention.as_steps(weights)
    assert (steps[..., 3] == weights).all() and (steps[2, :, :3] == green).all()

    png = base64.b64encode(cv2.imencode(".png", weights)[1]).decode()
    seen = [["t", 0.9, 0.0, 0.3], ["<", 0.9, 0.3, 0.6], ["n", 0.9, 0.6, 1.0]]
    line = {"characters": seen, "attention": png, "frames": 3.5}
    path = pictured(workdir("a", evaluations(0.5)), reading="t<n", **line)
    page = report_lines.readings([runs.load(path)])
    assert (
        page.count("chars tinted") == page.count("class=looked") == page.count("class=steps") == 1
    )
    assert "aspect-ratio:40/4;background-size:114.29% 100%" in page
    assert "top:13px;left:57.14%'>&lt;</span>" in page  # in the third frame
    for broken in ({}, {"attention": png}, line | {"attention": "?", "png": png}, line):
        assert report_attention.attention(broken, "") == ("", "")  # the last has no picture


def test_neighbours_in_the_work_folder_are_on_the_page(workdir):
    run = runs.load(pictured(workdir("p", [], objective="gen"), reading=""))
    assert report_lines.neighbours(run) == ""
    cv2.imwrite(str(run.path / "pictures" / report_lines.NEIGHBOURS), np.zeros((4, 9), np.uint8))
    assert "<h2>Nearest neighbours" in report.page([run])


def test_reconstructions_are_cut_into_named_rows(workdir):
    from dig_jax.evaluators import reconstruction

    path = workdir("p", [], objective="gen", data={"height_px": 4, "width_px": 8})
    pictures = {
        name: np.full((3, 4, 8, 1), value, np.float32)
        for name, value in zip(reconstruction.ROWS, (0.0, 0.4, 1.0))
    }
    sheet = reconstruction.sheet(pictures, columns=2)
    lines = report_lines.cut(sheet[..., 0], {"height_px": 4, "width_px": 8})
    assert [[int(row.mean()) for row in line] for line in lines[:3]] == [[0, 102, 255]] * 3
    reconstruction.write_png(path / "pictures" / "reconstruction-00000010.png", sheet)
    page = report_lines.reconstructions(runs.load(path))
    assert page.count("<figure>") == 3 and page.count("<small>output</small>") == 3
    assert report_lines.cut(sheet[:-1, :, 0], {"height_px": 4, "width_px": 8}) == []
    assert report_lines.cut(sheet[..., 0], {"height_px": None, "width_px": "x"}) == []


def test_heavy_pictures_are_made_light(workdir):
    noise = np.random.default_rng(0).integers(0, 256, (48, 1000), np.uint8)
    heavy = cv2.imencode(".png", noise)[1].tobytes()
    assert len(report_lines.data_uri(heavy)) < len(heavy)
    assert report_lines.data_uri(heavy).startswith("data:image/webp")
    assert report_lines.data_uri(b"x" * 99_999).startswith("data:image/png")


def test_a_page_in_both_themes_with_commit_machine_date_and_confusions(workdir):
    path = with_readings(workdir("a", evaluations(8 / 24)))
    start = {"step": 0, "commit": "abc1234", "devices": "1 x cpu", "machine": "M<", "jax": "1"}
    (path / "starts.jsonl").write_text(json.dumps(start | {"time": "2026-01-02T03:04:05"}) + "\n")
    page = report.page([runs.load(path)])
    assert "prefers-color-scheme: dark" in page and "currentColor" in page
    assert "abc1234 on 1 x cpu (M&lt;)" in page and "2026-01-02 03:04" in page
    assert "<h2>Glossary" in page and "<td>t</td><td>(nothing)</td>" in page
    assert page.index("<h2>Confusions") < page.index("<h2>Curves") < page.index("<h2>Glossary")
