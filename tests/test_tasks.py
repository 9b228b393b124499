"""Two data sets on one trunk: train, resume, eval, predict, inspect, weights taken over, and every mistake in one line."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from two_sets import prepare_other, together

from configs import base
from input_pipeline.schema import UserError
from twostream_jax import cli_config, validate_run
from twostream_jax.checkpoint import Checkpoints
from twostream_jax.drivers.demo import demo
from twostream_jax.drivers.evaluate import by_task, evaluate, result_lines
from twostream_jax.drivers.inspect import inspect_config, inspect_run, report_lines
from twostream_jax.drivers.predict import _fuse, predict
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.table import table
from twostream_jax.drivers.tasks import open_tasks
from twostream_jax.drivers.train import train
from twostream_jax.run_log import read_metrics
from twostream_jax.scores import ScoreFile


@pytest.fixture(scope="module")
def other(tiny_config, tmp_path_factory):
    return prepare_other(tmp_path_factory.mktemp("two"), tiny_config)


@pytest.fixture(scope="module")
def trained(tiny_config, other, tmp_path_factory):
    """A run of both tasks with a validation group: (config, workdir)."""
    config = together(tiny_config, other)
    config.data.validation_fraction, config.eval.validation_frames = 0.5, 2
    workdir = tmp_path_factory.mktemp("trained") / "both"
    everyone = jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: everyone[:1])
        train(config, workdir)
    return config, workdir


@pytest.fixture
def mixed(config, other, one_device):
    return together(config, other)


def own(trained):
    config, workdir = trained
    return config.copy_and_resolve_references(), workdir


def test_metrics_have_each_tasks_loss_and_accuracy(trained):
    lines = read_metrics(trained[1])
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss_first"] + line["loss_second"], rel=1e-6)
        # 12 samples of 16 are of the first task in every batch.
        shared = (3 * line["clip_accuracy_first"] + line["clip_accuracy_second"]) / 4
        assert line["clip_accuracy"] == pytest.approx(shared)
    rated = lines[-1]
    pair = [rated["validation_accuracy_first"], rated["validation_accuracy_second"]]
    assert rated["validation_accuracy"] == pytest.approx(np.mean(pair))


def test_the_checkpoint_knows_both_data_sets(trained, other):
    config, workdir = trained
    with Checkpoints(workdir, read_only=True) as checkpoints:
        stored = checkpoints.config(6)
    assert {name: len(classes) for name, classes in stored["tasks"].items()} == {"first": 9, "second": 6}
    assert Path(stored["config"]["tasks"]["second"]["records"]) == Path(other).resolve()
    tasks = {task.name: task for task in open_tasks(config)}
    for name, facts in stored["records"].items():
        assert facts["checksum"] == tasks[name].records.dataset.checksum
        names = [tasks[name].records.videos[i].name for i in tasks[name].positions["train"]]
        for print_ in (validate_run.fingerprints([one]) for one in names):
            assert print_ in stored["trained_videos"][facts["name"]]


def test_eval_scores_each_task_by_its_own_head(trained, one_device):
    config, workdir = own(trained)
    assert by_task(evaluate(config, workdir)).keys() == {"first"}  # of all splits together, none is tested
    file = ScoreFile.read(workdir / "scores_first_split1_test.npz")
    assert file.task == "first" and len(file.classes) == 9 and len(file.names) == 9
    config.eval.subset = "train"
    content = evaluate(config, workdir)
    assert json.loads((workdir / "eval_train.json").read_text()) == content
    # Of two and three groups, which have a video of each class, one and two are held out.
    assert {name: summary["videos"] for name, summary in content["tasks"].items()} == {"first": 9, "second": 6}
    assert len(ScoreFile.read(workdir / "scores_second_split0_train.npz").classes) == 6


def test_several_checkpoints_of_each_task(trained, one_device):
    config, workdir = own(trained)
    config.eval.subset = "train"
    alone = evaluate(config, workdir)
    config.eval.checkpoint = "last,3"
    content = evaluate(config, workdir)
    assert list(content["checkpoints"]) == ["6", "3"] and content["checkpoints"]["6"] == alone
    assert json.loads((workdir / "eval_train.json").read_text()) == content
    lines = result_lines(workdir, content)
    shown = [line.split(", checkpoint ")[1].split()[:3] for line in lines]
    assert shown == [[step, "4x10", task] for step in ("6", "3") for task in ("first", "second")]
    assert ScoreFile.read(workdir / "scores_second_split0_train_step3.npz").provenance["step"] == 3


@pytest.mark.slow
def test_a_config_of_one_of_the_data_sets_scores_with_that_head(trained, one_device, other):
    """As `--config=configs/temporal_hmdb51.py --workdir=runs/both` does, where the task has its data set's name."""
    config, workdir = own(trained)
    evaluate(config, workdir)
    before = ScoreFile.read(workdir / "scores_first_split1_test.npz")
    single = config.copy_and_resolve_references()
    single.tasks = {}
    single.data.records = config.tasks.first.records
    name = Setup.of(single).only.name
    with pytest.raises(UserError, match=f"has no head {name}, only first, second; leave out --config"):
        evaluate(single, workdir)
    renamed = together(single, other)
    renamed.tasks = {name: renamed.tasks.first, "second": renamed.tasks.second}
    renamed.tasks[name].records = config.tasks.first.records
    twin = workdir.parent / "renamed"
    train(renamed, twin)
    evaluate(single, twin)
    after = ScoreFile.read(twin / f"scores_{name}_split1_test.npz")
    assert after.names == before.names and after.classes == before.classes
    single.data.split, single.data.folds = 2, 2
    with pytest.raises(UserError, match=r"^data\.split=2: the net in .* was trained with 1; leave it at that"):
        evaluate(single, twin)


def test_predict_and_inspect_show_every_head(trained, one_device, monkeypatch):
    config, workdir = own(trained)
    video = next(Path(config.data.split_file).parent.rglob("*.avi"))
    passes, plain = [], Scorer.by_net_and_head
    monkeypatch.setattr(Scorer, "by_net_and_head", lambda *of: passes.append(set(of[4])) or plain(*of))
    (stream,) = predict([(config, workdir)], video)["streams"].values()
    assert passes == [{"first", "second"}]  # both heads in one pass
    assert {name: len(top) for name, top in stream["tasks"].items()} == {"first": 5, "second": 5}
    result = inspect_run(config, workdir)
    assert result["tasks"] == {"first": 9, "second": 6}
    by_name = {row["name"]: row["count"] for row in result["parameters"]}
    assert by_name["full8_second/bias"] == 6 and by_name["full8_first/bias"] == 9
    assert "first 9 classes, second 6 classes" in report_lines(result)[0]
    assert inspect_config(config)["total"] == result["total"]


def test_resume_may_move_records_and_change_parts_but_not_the_mixture(trained, one_device, capsys, tmp_path):
    config, workdir = own(trained)
    link = tmp_path / "elsewhere"
    link.symlink_to(config.tasks.second.records)
    config.tasks.second.records, config.train.accumulate = str(link), 4
    config.train.steps = 8
    assert train(config, workdir)["step"] == 8
    assert "continues with train.accumulate 4 instead of 1" in capsys.readouterr().out
    config.tasks.second.share = 2.0
    with pytest.raises(UserError, match=r"cannot continue, tasks\.second\.share was 1\.0, is 2\.0"):
        train(config, workdir)
    config.tasks.second.share, config.tasks.second.records = 1.0, config.tasks.first.records
    with pytest.raises(
        UserError, match=r"tasks\.first\.split=1: trains on .* which tasks\.second is tested on; both are"
    ):
        train(config, workdir)


def test_the_stored_config_brings_its_tasks_back(trained):
    _, workdir = trained
    loaded = cli_config.load_stored(workdir, ["--config.tasks.first.share=2"])
    assert (loaded.tasks.first.share, loaded.tasks.second.split) == (2.0, 0)
    stored = json.loads((workdir / "config.json").read_text())
    stored["tasks"]["second"]["splits"] = 3
    broken = workdir.parent / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r'unknown key "tasks\.second\.splits"'):
        cli_config.load_stored(broken, [])


def test_a_net_of_one_task_begins_with_the_trunk_and_the_head_of_its_classes(
    trained, one_device, other, tmp_path, capsys
):
    config, workdir = own(trained)
    single = config.copy_and_resolve_references()
    single.tasks = {}
    single.data.records, single.train.steps, single.init["from"] = other, 1, str(workdir)
    single.data.validation_fraction = 0.0
    # Its head saw all of the set's videos, split 1's test videos too.
    with pytest.raises(
        UserError, match=r"^init\.from=step . of .* was trained on .*, which data\.split=1 tests on; begin with"
    ):
        train(single, tmp_path / "leaks")
    single.tasks = {"second": base.task(other, split=0)}
    train(single, tmp_path / "one")
    said = capsys.readouterr().out
    assert "full8_second" in re.search("loaded: (.*)", said)[1] and "not taken: full8_first (9 classes" in said
    assert "left fresh" not in said
    # What the source has seen is remembered, over a resume too.
    single.train.steps = 2
    train(single, tmp_path / "one")
    with Checkpoints(tmp_path / "one", read_only=True) as checkpoints:
        seen = checkpoints.config(2)["trained_videos"]
    facts = [task.facts["name"] for task in open_tasks(config)]
    assert set(seen) == set(facts) and all(seen.values())


def test_checkpoints_of_one_task_from_before_there_were_several():
    item = {"tasks": {"a": ["x"]}, "records": {"name": "set", "checksum": "c"}, "trained_videos": "abcdefgh"}
    now = validate_run.config_item_by_task(item)
    assert now["records"] == {"a": item["records"]} and now["trained_videos"] == {"set": "abcdefgh"}
    assert validate_run.config_item_by_task(now) == now


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("share", 0.0, r"^tasks\.second\.share=0\.0: must be above 0"),
        ("share", "much", r"^tasks\.second\.share='much': must be a number"),
        ("split", -1, r"^tasks\.second\.split=-1: must be at least 0"),
        ("split", 7, r"^tasks\.second\.split=7 is not stored \(the records hold: 1\)"),
        ("folds", 99, r"^tasks\.second\.split=0|^tasks\.second\.folds=99"),
        ("records", "", r"^tasks\.second\.records is empty: name the folder"),
        ("records", "nowhere", r"nowhere"),
        ("classes", ("a", "b"), r"^tasks\.second\.classes=a,b: .* was prepared with 6 classes"),
        ("classes", (1,), r"^tasks\.second\.classes=\(1,\): must be words"),
    ],
)
def test_a_mistake_in_a_task_names_its_key(mixed, tmp_path, key, value, told):
    if key == "folds":
        mixed.tasks.second.split = 1
    with mixed.ignore_type():
        mixed.tasks.second[key] = value
    with pytest.raises(UserError, match=told) as caught:
        train(mixed, tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_tasks_that_are_no_tasks(mixed, tmp_path):
    for name, value, told in (
        ("a/b", base.task("r"), r"^tasks\.a/b: a task's name has letters"),
        ("c", {"records": "r"}, r"^tasks\.c has no key classes; make it with base\.task"),
        ("d", base.task("r").to_dict() | {"shares": 1}, r"^tasks\.d has an unknown key shares; there are"),
        ("e", 3, r"^tasks\.e=3: must be base\.task"),
    ):
        own = mixed.copy_and_resolve_references()
        with own.ignore_type(), own.unlocked():
            own.tasks[name] = value
        with pytest.raises(UserError, match=told):
            train(own, tmp_path)


def test_one_data_set_given_twice_must_not_be_trained_on_what_it_is_tested_on(mixed, tmp_path):
    mixed.tasks.second = base.task(mixed.tasks.first.records, split=0)
    with pytest.raises(
        UserError, match=r"^tasks\.second\.split=0: trains on .*, which tasks\.first is tested on; both are"
    ):
        train(mixed, tmp_path)
    mixed.tasks.second.split = 1
    assert [task.name for task in open_tasks(mixed)] == ["first", "second"]


def test_parts_that_do_not_divide_the_batch(mixed, tmp_path):
    mixed.train.accumulate = 3
    with pytest.raises(
        UserError, match=r"^train\.batch_size=16: .* in each of train\.accumulate=3 parts; use 15 or 18"
    ):
        train(mixed, tmp_path)


def test_the_demo_says_that_it_runs_one_data_set(mixed, tmp_path):
    with pytest.raises(UserError, match=r"^tasks=first,second: mode demo runs both streams on one data set"):
        demo(mixed, tmp_path)


def test_only_tasks_of_all_splits_leave_nothing_to_test(mixed, tmp_path):
    mixed.tasks.first.split = 0
    with pytest.raises(UserError, match=r"^eval\.subset=test: tasks\.first\.split=0 has no such videos"):
        evaluate(mixed, tmp_path)


@pytest.mark.slow
def test_a_task_of_too_few_samples_leaves_no_nan_in_the_metrics(mixed, tmp_path):
    mixed.tasks.second.share, mixed.train.steps, mixed.train.log_every = 0.01, 2, 1
    train(mixed, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    # By the draws of this seed neither batch holds a sample of the second task.
    assert len(lines) == 2 and all("loss_first" in line and "loss_second" not in line for line in lines)


def test_a_head_is_fused_with_the_one_of_its_name_before_others_of_its_classes():
    one = {"p": (["x", "y"], np.array([0.9, 0.1])), "q": (["y", "x"], np.array([0.8, 0.2]))}
    fused = _fuse([one, one])
    assert [fused[head][0]["class"] for head in ("p", "q")] == ["x", "y"]
    assert fused["q"][0]["probability"] == 0.8


def test_runs_that_share_no_head_all_three_are_refused():
    p, q = ["x", "y"], ["a", "b"]
    validate_run.check_runs_classes([{"p": p, "q": q}, {"p": p}, {"other": ["y", "x"]}], ["1", "2", "3"])
    with pytest.raises(UserError, match="--runs: 1 and 2 were trained on different classes"):
        validate_run.check_runs_classes([{"p": p, "q": q}, {"p": p}, {"q": q}], ["1", "2", "3"])
    with pytest.raises(UserError, match=r"--runs: 1 and 3 .*only in the first: x, y; only in the second: a, b"):
        validate_run.check_runs_classes([{"p": p}, {"p": p}, {"q": q}], ["1", "2", "3"])


def test_a_set_prepared_again_under_another_name_is_warned_of(trained, one_device, monkeypatch, capsys):
    """Its videos swapped between training and test."""
    config, workdir = own(trained)
    opened = open_tasks(config)

    def renamed(_):
        first, second = opened
        facts = first.facts | {"name": "again"}
        swapped = {**first.positions, "test": first.positions["train"], "train": first.positions["test"]}
        again = dataclasses.replace(first, positions=swapped)
        monkeypatch.setattr(type(again), "facts", property(lambda self: facts))
        return again, second

    monkeypatch.setattr("twostream_jax.drivers.setup.open_tasks", renamed)
    evaluate(config, workdir)
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1 and "is again, the net was trained on videos, and both have a video " in warned[0]


def test_names_that_cannot_be_a_tasks(mixed, trained, tmp_path):
    mixed.tasks = {1: base.task("r")}
    with pytest.raises(UserError, match=r"^tasks\.1: a task's name has letters"):
        train(mixed, tmp_path)
    stored = json.loads((trained[1] / "config.json").read_text())
    stored["tasks"] = {"a.b": stored["tasks"]["first"]}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"config\.json: not a stored config \(tasks\.a\.b is no name of a task\)"):
        cli_config.load_stored(tmp_path, [])


def test_the_table_sets_its_rows_tasks_itself(mixed, tmp_path):
    with pytest.raises(UserError, match=r"^tasks=first,second: mode table sets the tasks of its rows itself"):
        table("2014-1b", {"ucf101": mixed}, tmp_path)
