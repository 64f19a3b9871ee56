"""Report and results: figures come from the logs, land in the right cell, and the page needs
nothing beside itself.
"""

import base64
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from dig_jax.tools import report, results
from dig_jax.workdir import read as runs


@pytest.fixture
def workdir(tmp_path):
    """make(name, rows, **config) -> a work folder with that log."""

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
    assert run.best("eval/val/cer") == 0.2
    assert run.at_best("val", "wer") == 0.8
    assert run.best("eval/val/nothing") is None


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


def test_seeds_are_averaged_and_rates_of_one_seed_are_a_sweep(workdir):
    many = [
        runs.load(workdir(f"s{i}", evaluations(cer), seed=seed))
        for i, (cer, seed) in enumerate([(0.30, 0), (0.20, 0), (0.25, 0), (0.40, 1)])
    ]
    table = results.cells(results.by_seed(many))
    assert table["fine-tuned, linear CTC", "100 %", "val"]["random"] == {0: 0.20, 1: 0.40}
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
    assert table["fine-tuned, linear CTC", "100 %", "val"]["dig"] == {0: 0.3, 1: 0.2, 2: 0.2}


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
    assert report.section(run).count("<svg") == len(names)


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


def test_a_run_is_finished_when_its_log_reaches_the_last_step(workdir, tmp_path):
    assert runs.load(workdir("a", evaluations(0.5), total={"steps": 10})).finished
    assert not runs.load(workdir("b", evaluations(0.5), total={"steps": 20})).finished
    (workdir("c", []) / "metrics.jsonl").unlink()  # just begun
    assert not runs.load(tmp_path / "c").finished and runs.load(tmp_path / "c").datasets() == []


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
    assert records[0]["figures"] == [[*cell, 0.2, runs.load(source.parent / "b").origin]]
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
