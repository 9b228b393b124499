"""The 2014 paper's tables as data, and the config and the folder of each of their runs."""

import json
import os
from types import SimpleNamespace

import pytest

from input_pipeline.dataset_file import read_dataset
from input_pipeline.schema import UserError
from twostream_jax import cli_config
from twostream_jax.drivers import table_plan, table_runs
from twostream_jax.drivers.prepare import list_config_videos
from twostream_jax.drivers.table_runs import Places, Run, run_config, with_starts
from twostream_jax.drivers.tables2014 import ADDED, IMAGENET, TABLES, TEMPORAL, Net, all_nets
from twostream_jax.report.paper_table import summarise, write_paper_table

# Read off the paper a second time, row by row.
PRINTED = {
    "2014-1a": [42.5, 52.3, 70.8, 72.8, 72.7, 59.9],
    "2014-1b": [73.9, 80.4, 79.9, 81.0, 79.6, 80.2, 81.2],
    "2014-2": [46.6, 49.0, 52.8, 55.4, 81.5],
    "2014-3": [85.6, 85.9, 86.2, 87.0],
    "2014-4": [73.0, 83.7, 86.9, 88.0, 40.5, 54.6, 58.0, 59.4],
    "2014-slow-fusion": [52.3, 56.4],
}


def loaded(path: str, *overrides: str):
    return cli_config.load(path, list(overrides))[0]


def full_places(workdir, **table) -> Places:
    overrides = [f"--config.table.{key}={value}" for key, value in table.items()]
    return Places(
        {"ucf101": loaded("configs/table.py", *overrides), "hmdb51": loaded("configs/temporal_hmdb51.py")}, workdir
    )


def named_by_place(monkeypatch):
    """Let each data set be there, with the name of its place."""
    monkeypatch.setattr(Places, "dataset", lambda self, place: SimpleNamespace(name=place))


def changed(one, other) -> dict:
    """Return the keys in which two configs differ, with the second's values."""
    before, after = [flat_keys(config.to_dict()) for config in (one, other)]
    return {key: value for key, value in after.items() if before.get(key) != value}


def flat_keys(config: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in config.items():
        found |= flat_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_the_papers_numbers():
    assert {name: [row.paper for row in table.rows] for name, table in TABLES.items()} == PRINTED


def test_a_folder_stands_for_one_net_and_tables_share_them():
    nets = set(all_nets())
    assert len({(net.data, net.name) for net in nets}) == len(nets)
    rows = {name: {net for row in table.rows for net in row.nets} for name, table in TABLES.items()}
    assert TEMPORAL in rows["2014-1b"] & rows["2014-3"]
    assert len(rows["2014-1a"] & rows["2014-slow-fusion"]) == 1 and len(rows["2014-2"] & rows["2014-4"]) == 2
    assert Run(TEMPORAL, 1, 0).name == "ucf101-1_temporal_L10_flow_mean"
    assert Run(TEMPORAL, 0, 2).name == "ucf101-all_temporal_L10_flow_mean_seed2"
    assert rows["2014-3"] & rows["2014-1a"]  # the spatial net: last layer, dropout 0.5


def test_the_default_rows_are_the_papers_recipes_as_configured(tmp_path):
    places = full_places(tmp_path)
    temporal = run_config(Run(TEMPORAL, 1, 0), places)
    assert changed(loaded("configs/temporal.py"), temporal) == {
        "data.records": str(tmp_path / "records" / "ucf101"),
        "flow.backward": True,
    }
    scratch = next(net for net in all_nets() if net.name == "spatial_scratch_dropout0.9")
    spatial = run_config(Run(scratch, 1, 3), places)
    assert set(changed(loaded("configs/spatial.py"), spatial)) == {"data.records", "flow.backward", "seed"}
    assert spatial.seed == 3
    hmdb = run_config(Run(Net("x", "hmdb51", TEMPORAL.settings), 2, 0), places)
    assert changed(loaded("configs/temporal_hmdb51.py"), hmdb) == {"data.split": 2}


def test_every_row_of_every_table_has_the_settings_of_its_name(tmp_path, monkeypatch):
    named_by_place(monkeypatch)
    places = full_places(tmp_path, imagenet="weights.mat")
    configs = {
        net.name: run_config(Run(net, 1, 0), places)
        for net in set(all_nets())
        if net not in (IMAGENET,) and net.data == "ucf101"
    }
    for name, config in configs.items():
        streams = ("flow",) if name.startswith("temporal") else ("rgb",)
        assert config.input.streams == streams
        if "dropout" in name:
            assert config.model.dropout == float(name.rsplit("dropout")[1])
        tuned = "finetuned" in name or "lastlayer" in name
        assert (config.train.steps, config.optim.drops) == (
            (20_000, (14_000,)) if tuned else (80_000, (50_000, 70_000))
        )
        assert config.init["from"] == (os.path.abspath("weights.mat") if tuned else "")
        assert bool(config.init.freeze) == ("lastlayer" in name)
        if streams == ("flow",):
            assert config.input.stack == int(name.split("_")[1][1:]) and config.model.dropout == 0.9
            assert config.input.mean_subtraction == ("nomean" not in name)
            assert (config.input.stacking == "trajectory") == ("trajectory" in name)
            assert config.input.bidirectional == ("bidirectional" in name)
        assert set(config.tasks) == ({"ucf101", "hmdb51"} if "multitask" in name else set())
    assert (
        "temporal_L10_flow_mean_multitask" in configs and len(configs) == 6 + 7 + 2
    )  # 1a, 1b, multi-task, slow fusion
    assert configs["slow_fusion_T11"].input.clip_frames == 11
    both = configs["temporal_L10_flow_mean_multitask"].tasks
    assert (both.ucf101.split, both.hmdb51.split) == (1, 0)  # all of the other data set
    assert both.hmdb51.records == "records/hmdb51"
    # The same as the config that a user trains it by; the table's own records have backward flow too.
    own = loaded("configs/temporal_multitask.py")
    ours = changed(own, configs["temporal_L10_flow_mean_multitask"])
    assert {key for key in ours if not key.startswith("data.")} == {
        "tasks.ucf101.records",
        "tasks.ucf101.share",
        "tasks.hmdb51.share",
        "flow.backward",
    }


def test_what_a_net_starts_from_is_trained_first(tmp_path):
    tuned = next(row.nets[0] for row in TABLES["2014-2"].rows if row.nets[0].start)
    last = TABLES["2014-3"].rows[0].nets[0]
    places = full_places(tmp_path, imagenet="pre.py")
    names = [run.name for run in with_starts([Run(tuned, 1, 1), Run(last, 1, 0), Run(last, 1, 0)], places)]
    assert names == [
        "ucf101-all_temporal_L10_flow_mean_seed1",
        "hmdb51-1_temporal_L10_flow_mean_finetuned_seed1",
        "imagenet-1_spatial_pretraining",
        "ucf101-1_spatial_lastlayer_dropout0.5",
    ]
    places = full_places(tmp_path, imagenet="given.caffemodel")
    assert [run.name for run in with_starts([Run(last, 1, 0)], places)] == ["ucf101-1_spatial_lastlayer_dropout0.5"]


def test_without_weights_a_row_says_what_to_name(tmp_path):
    places = full_places(tmp_path)
    with pytest.raises(
        UserError, match=r"^table\.imagenet is empty: name the config file of the data set in its place"
    ):
        run_config(Run(IMAGENET, 1, 0), places)


def test_toy_size_and_its_data_sets(tmp_path):
    configs = {
        place: loaded(f"configs/table_tiny{name}.py")
        for place, name in (("ucf101", ""), ("hmdb51", "_hmdb51"), ("imagenet", "_imagenet"))
    }
    places = Places(configs, tmp_path)
    config = run_config(Run(TEMPORAL, 2, 0), places)
    assert (config.train.steps, config.model.width, config.input.crop) == (300, 1 / 8, 56)
    assert (config.data.split, config.data.folds, config.model.dropout) == (2, 3, 0.5)
    pre = run_config(Run(IMAGENET, 1, 0), places)
    assert (pre.train.steps, pre.flow.method, pre.flow.backward) == (300, "none", False)
    ucf, hmdb, imagenet = (set(configs[place].data.classes) for place in ("ucf101", "hmdb51", "imagenet"))
    assert ucf & hmdb == {"red-swing"} and not imagenet & (ucf | hmdb)
    assert len({configs[place].data.seed for place in configs}) == 3
    assert places.config("ucf101").flow.backward and not places.config("hmdb51").flow.backward


def test_hmdb51_with_added_classes_is_prepared_from_both_sets(tmp_path):
    configs = {
        place: loaded(f"configs/table_tiny{name}.py", "--config.data.prepare_processes=1")
        for place, name in (("ucf101", ""), ("hmdb51", "_hmdb51"))
    }
    places = Places(configs, tmp_path)
    added = next(net for net in all_nets() if net.data == ADDED)
    config = run_config(Run(added, 3, 0), places)
    assert (config.data.kind, config.data.folds, config.data.split) == ("csv", 0, 3)
    assert config.data.records == str(tmp_path / "records" / ADDED)
    listed = list_config_videos(config)
    # Six of its own, and five of the other six: red-swing is in both.
    assert len(listed.classes) == 11 and listed.splits == ("1", "2", "3") and len(listed.videos) == 120 + 100
    tested = [video for video in listed.videos if video.subsets["3"] == "test"]
    assert {listed.classes[video.label] for video in tested} == set(configs["hmdb51"].data.classes)
    assert run_config(Run(added, 1, 0), places).data.split_file == config.data.split_file


def entry(accuracy, correct, videos, split=1):
    return {
        "accuracy": accuracy, "correct": correct, "videos": videos, "protocol": "25x10", "task": "t", "split": split,
        "folds": 0, "subset": "test",
    }  # fmt: skip


def test_a_rows_summary_by_hand():
    one = summarise([[entry(0.5, 5, 10)]])
    assert (one["accuracy"], one["spread"], one["videos"]) == (0.5, None, 10)
    # Wilson's interval of 5 of 10 at z = 1.96.
    assert one["interval95"] == pytest.approx([0.2366, 0.7634], abs=1e-4)
    seeds = summarise([[entry(0.5, 5, 10), entry(0.7, 7, 10)]])
    assert (seeds["accuracy"], seeds["correct"], seeds["videos"]) == (pytest.approx(0.6), 6, 10)
    assert seeds["spread"] == pytest.approx(0.02**0.5) and seeds["spread_over"] == "seeds"
    splits = summarise([[entry(0.5, 5, 10), entry(0.7, 7, 10)], [entry(0.9, 18, 20, 2), entry(0.7, 14, 20, 2)]])
    assert splits["accuracy"] == pytest.approx(0.7) and splits["spread"] == pytest.approx(0.02**0.5)
    assert (splits["correct"], splits["videos"], splits["splits"]) == (22, 30, [1, 2])
    assert splits["spread_over"] == "splits"


def test_the_written_table(tmp_path):
    rows = [
        {"setting": "A | B", "paper": 81.0, "runs": ["a"], **summarise([[entry(0.5, 5, 10)], [entry(0.7, 7, 10, 2)]])},
        {"setting": "C", "paper": 9.0, "runs": ["c", "d"], "missing": "no weights"},
    ]
    shown = write_paper_table(tmp_path, name="x", caption="Table X", rows=rows, notes=["toy"])
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in shown.splitlines()]
    # Wilson's interval of 12 of 20.
    low_high, where = "38.7 to 78.1", "t split 1, 2 test"
    assert cells[2] == [
        "A \\| B", "81.0", "**60.0**", low_high, "14.1 over 2 splits", "12 / 20", "`25x10`", where, "`a`",
    ]  # fmt: skip
    assert cells[3] == ["C", "9.0", "missing", "–", "–", "–", "–", "–", "`c`, `d`"]
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("# Table X\n") and "- C: missing, no weights\n" in text and text.endswith("- toy\n")
    assert json.loads((tmp_path / "table_x.json").read_text())["rows"][1]["missing"] == "no weights"


def lines_of(*rates) -> str:
    return "".join(json.dumps({"step": 10 * i, "samples_per_second": rate}) + "\n" for i, rate in enumerate(rates))


def test_the_plan_takes_earlier_runs_before_it_times(config, tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(table_plan, "_timed_rate", lambda c, folder: timed.append(c.input.stack))
    other, waiting = config.copy_and_resolve_references(), config.copy_and_resolve_references()
    config.train.steps = other.train.steps = waiting.train.steps = 100
    other.input.stack = waiting.input.stack = 2
    as_fast = config.copy_and_resolve_references()
    as_fast.model.dropout, as_fast.input.mean_subtraction, as_fast.seed = 0.75, False, 4
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "a" / "metrics.jsonl").write_text(lines_of(1, 32, 48, 64, 2))
    (tmp_path / "a" / "checkpoints" / "40").mkdir(parents=True)
    (tmp_path / "done" / "checkpoints" / "100").mkdir(parents=True)
    plan = table_plan.plan_lines({"a": config, "b": as_fast, "done": config, "c": other, "d": waiting}, tmp_path)
    # 48 samples a second, the median, are 3 steps of 16.
    assert plan == [
        "  a: 40 of 100 steps there, 0:20 at 3 steps/s (a/metrics.jsonl)",
        "  b: 100 steps, 0:33 at 3 steps/s (a/metrics.jsonl)",
        "  done: 100 steps, all there",
        "  c: 100 steps, time unknown",
        "  d: 100 steps, time unknown",
        "  training in all: 0:53, and what is unknown",
    ]
    assert timed == [2]  # once for both


@pytest.mark.slow
def test_a_timing_leaves_nothing_behind(config, one_device, tmp_path, capsys):
    rate, source = table_plan._timed_rate(config, tmp_path / "timing")
    assert 0.1 < rate < 1000 and source == "4 steps timed now"
    assert not list(tmp_path.iterdir()) and capsys.readouterr() == ("", "")
    config.data.records = str(tmp_path / "nowhere")
    assert table_plan._timed_rate(config, tmp_path / "timing") is None


def test_damaged_results_are_made_anew(tmp_path, config):
    dataset = read_dataset(config.data.records)
    assert table_runs.evaluation(config, tmp_path, dataset, "test") is None  # never scored
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    for text in ("{", "{}", "[]"):
        for name in ("eval.json", "scores_videos_split1_test.npz"):
            (tmp_path / name).write_text(text)
        assert table_runs.evaluation(config, tmp_path, dataset, "test") is None
