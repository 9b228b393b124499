"""mode=table on tiny nets: resuming, sharing runs, rows that cannot be had, seeds and splits."""

import json
import shutil
import statistics

import numpy as np
import pytest
from command_line import forbid_devices, refused, run

from input_pipeline import subsets
from input_pipeline.dataset_file import read_dataset
from input_pipeline.schema import UserError
from twostream_jax import cli
from twostream_jax.drivers import table as driver
from twostream_jax.drivers import table_plan, table_runs
from twostream_jax.drivers.evaluate import eval_name
from twostream_jax.drivers.tables2014 import Net, Row, Table
from twostream_jax.files import write_json
from twostream_jax.report.tables import accuracy_entry
from twostream_jax.scores import ScoreFile, file_name

RGB = (("model.name", "cnn_m_spatial"), ("input.streams", ("rgb",)))
FLOW = (("model.name", "cnn_m_temporal"), ("input.streams", ("flow",)), ("input.stack", 2))
SPATIAL, TEMPORAL = Net("spatial", "ucf101", RGB), Net("temporal_L2", "ucf101", FLOW)
IMPOSSIBLE = Net("impossible", "ucf101", (*FLOW, ("input.stack", 0)))
FOREIGN = Net("foreign", "hmdb51", FLOW)
SMALL = {
    "alone": Table("Two nets", (Row("Temporal", 50.0, (TEMPORAL,)), Row("Spatial", 40.0, (SPATIAL,)))),
    "fused": Table(
        "Fused",
        (
            Row("Impossible", 1.0, (IMPOSSIBLE,)),
            Row("Averaged", 60.0, (SPATIAL, TEMPORAL), "average"),
            Row("By SVM", 70.0, (SPATIAL, TEMPORAL), "svm"),
            Row("Elsewhere", 2.0, (FOREIGN,)),
        ),
    ),
    "splits": Table("Over splits", (Row("Temporal", 50.0, (TEMPORAL,), splits=3),)),
}


@pytest.fixture
def small(config, one_device, monkeypatch):
    """A config at a size that trains in seconds, on records that are there, and the small tables; no timing."""
    monkeypatch.setattr(driver, "TABLES", SMALL)
    monkeypatch.setattr(table_runs, "TINY", {"scratch": (4, (3,)), "fine-tuning": (2, (1,))})
    monkeypatch.setattr(table_runs, "TINY_CROP_PX", 41)
    monkeypatch.setattr(table_runs, "TINY_WIDTH", 1 / 16)
    monkeypatch.setattr(table_runs, "TINY_FRAMES", 2)
    monkeypatch.setattr(table_plan, "_timed_rate", lambda *_: (2.0, "told"))
    config.table.scale, config.eval.crops = "tiny", 1
    return config


@pytest.fixture
def pretended(monkeypatch):
    """The names of the runs that are trained, in order; training and scoring write what real ones leave, at once."""
    names = []

    def train(config, folder):
        names.append(folder.name)
        write_json(folder / "config.json", config.to_dict())

    monkeypatch.setattr(driver, "train", train)
    monkeypatch.setattr(driver, "evaluate", pretend_evaluate)
    return names


def pretend_evaluate(config, folder, only="") -> None:
    """Write score file and summary of the videos of a subset, with scores that hang on the folder's name."""
    dataset, data, subset = read_dataset(config.data.records), config.data, config.eval.subset
    chosen = subsets.select(dataset.videos, split=data.split, folds=data.folds, validation_fraction=0, seed=data.seed)
    videos = [dataset.videos[i] for i in chosen[subset]]
    rng = np.random.default_rng(list(f"{folder.name} {subset}".encode()))
    logits = rng.normal(size=(len(videos), len(dataset.classes))).astype(np.float32)
    logits[np.arange(len(videos)), [video.label for video in videos]] += rng.uniform(0, 3)
    scores = ScoreFile(
        task=dataset.name,
        split=data.split,
        folds=data.folds,
        subset=subset,
        names=tuple(video.name for video in videos),
        groups=tuple(video.group for video in videos),
        labels=np.array([video.label for video in videos], np.int32),
        classes=dataset.classes,
        probs=np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True),
        logits=logits,
        protocol="center",
        provenance={
            "workdir": str(folder),
            "step": config.train.steps,
            "model": config.model.name,
            "streams": list(config.input.streams),
            "records": {"checksum": dataset.checksum},
            "trained_on": {dataset.name: {"checksum": dataset.checksum}},
        },
    )
    scores.write(folder / file_name(dataset.name, data.split, data.folds, subset))
    summary = {
        "task": dataset.name,
        "protocol": "center",
        "checkpoint": config.train.steps,
        "center": accuracy_entry(scores),
    }
    write_json(folder / eval_name(subset), summary)


@pytest.mark.slow
def test_a_table_is_made_by_real_nets(small, tmp_path, capsys):
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"^--table=fused: 2 of 4 rows are missing, such as 'Impossible': input\.stack=0"
        ):
            driver.table("fused", {"ucf101": small}, tmp_path)
    out = capsys.readouterr().out
    assert out.count("of 4\n") == 2 and out.count("starts of 4") == 2  # each net once
    assert "ucf101-1_temporal_L2: 4 steps, 0:02 at 2 steps/s (told)" in out and "training in all: 0:04" in out
    assert "training in all: 0:00" in out
    both = "ucf101-1_spatial+ucf101-1_temporal_L2"
    for row, kind in zip(
        json.loads((tmp_path / "table.json").read_text())["rows"][1:3], ("average", "svm"), strict=True
    ):
        fused = json.loads((tmp_path / "fused" / f"{kind}_{both}" / "fuse.json").read_text())
        assert row["accuracy"] == fused[kind]["accuracy"] and row["runs"] == both.split("+")
        assert (row["videos"], row["protocol"], row["spread"]) == (9, "center", None)


def test_a_table_resumes_shares_its_runs_and_reports_what_it_cannot_have(small, pretended, tmp_path):
    alone = driver.table("alone", {"ucf101": small}, tmp_path)
    assert pretended == ["ucf101-1_temporal_L2", "ucf101-1_spatial"]
    for row, name in zip(alone["rows"], pretended, strict=True):
        found = json.loads((tmp_path / name / "eval.json").read_text())["center"]
        assert row["runs"] == [name] and {key: row[key] for key in found if key != "split"} | {"split": 1} == found
    # Another table of the same nets: rows that cannot be had are reasons, the rest is there but for training scores.
    kept = [tmp_path / name / "eval.json" for name in pretended]
    before = [path.stat().st_mtime_ns for path in kept]
    with pytest.raises(UserError, match="2 of 4 rows are missing"):
        driver.table("fused", {"ucf101": small}, tmp_path)
    assert [path.stat().st_mtime_ns for path in kept] == before
    table = json.loads((tmp_path / "table.json").read_text())
    impossible, average, _, elsewhere = table["rows"]
    assert impossible["missing"].startswith("input.stack=0: must be at least 1") and "accuracy" not in impossible
    assert elsewhere["missing"] == "table.hmdb51 is empty: name the config file of the data set in its place"
    text = (tmp_path / "table.md").read_text()
    assert "| Averaged | 60.0 | **" in text and "- Elsewhere: missing, table.hmdb51 is empty" in text
    assert text == (tmp_path / "table_fused.md").read_text() and "Toy size" in text
    assert "In the place of UCF-101: videos, 9 classes" in text
    # A deleted folder makes just that run again, and what hangs on it.
    del pretended[:]
    fused = tmp_path / "fused" / f"average_{'+'.join(average['runs'])}" / "fuse.json"
    fused_before = fused.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "ucf101-1_spatial")
    with pytest.raises(UserError, match="2 of 4 rows"):
        driver.table("fused", {"ucf101": small}, tmp_path)
    assert pretended == ["ucf101-1_spatial"] and fused.stat().st_mtime_ns > fused_before
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == table["rows"]
    # The same rows by another recipe: what is there is named, and left as it is.
    small.optim.momentum = 0.5
    with pytest.raises(
        UserError, match=r"2 of 2 rows .*ucf101-1_temporal_L2: its run cannot continue, optim\.momentum"
    ):
        driver.table("alone", {"ucf101": small}, tmp_path)


def test_a_run_that_fails_takes_its_rows_alone(small, pretended, tmp_path, monkeypatch):
    def refuse(config, folder, only=""):
        if "spatial" in folder.name:
            raise OSError(28, "No space left on device")
        pretend_evaluate(config, folder)

    monkeypatch.setattr(driver, "evaluate", refuse)
    with pytest.raises(UserError, match=r"1 of 2 rows are missing, such as 'Spatial': \[Errno 28\] No space left"):
        driver.table("alone", {"ucf101": small}, tmp_path)
    temporal, spatial = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert "accuracy" in temporal and spatial["missing"] == "[Errno 28] No space left on device"


def test_a_start_that_fails_takes_what_hangs_on_it(small, pretended, tmp_path, monkeypatch):
    tuned = Net("tuned", "ucf101", RGB, "fine-tuning", Net("before", "hmdb51", RGB))
    monkeypatch.setitem(SMALL, "tuned", Table("Tuned", (Row("Tuned", 1.0, (tuned,)),)))
    with pytest.raises(UserError, match=r"hmdb51-all_before, which it starts from: table\.hmdb51 is empty"):
        driver.table("tuned", {"ucf101": small}, tmp_path)
    assert not pretended


def test_a_start_is_trained_first_and_not_scored(small, pretended, tmp_path, monkeypatch):
    tuned = Net("tuned", "ucf101", RGB, "fine-tuning", Net("before", "imagenet", RGB, "own"))
    monkeypatch.setitem(SMALL, "tuned", Table("Tuned", (Row("Tuned", 1.0, (tuned,)),)))
    small.table.imagenet = "before.py"
    for times in (1, 2):
        (row,) = driver.table("tuned", {"ucf101": small, "imagenet": small}, tmp_path)["rows"]
        # What is trained already is only looked at.
        assert pretended == ["imagenet-1_before", "ucf101-1_tuned", "imagenet-1_before"][: times + 1]
    assert row["runs"] == ["ucf101-1_tuned"] and not (tmp_path / "imagenet-1_before" / "eval.json").exists()
    stored = json.loads((tmp_path / "ucf101-1_tuned" / "config.json").read_text())
    assert stored["init"]["from"] == str(tmp_path / "imagenet-1_before") and stored["train"]["steps"] == 2


def test_nothing_is_trained_for_rows_that_cannot_be_had(small, pretended, tmp_path, monkeypatch):
    tuned = Net(
        "tuned", "ucf101", (*RGB, ("input.clip_frames", 3)), "fine-tuning", Net("before", "imagenet", RGB, "own")
    )
    monkeypatch.setitem(SMALL, "tuned", Table("Tuned", (Row("Tuned", 1.0, (tuned,)),)))
    small.table.imagenet = "before.py"
    with pytest.raises(
        UserError, match=r"1 of 1 rows are missing, such as 'Tuned': input\.clip_frames=3: cnn_m_spatial"
    ):
        driver.table("tuned", {"ucf101": small, "imagenet": small}, tmp_path)
    assert not pretended


def test_seeds_and_folds_give_mean_and_spread(small, pretended, tmp_path):
    small.table.seeds, small.data.folds = 2, 2
    (row,) = driver.table("splits", {"ucf101": small}, tmp_path)["rows"]
    names = [f"ucf101-{fold}_temporal_L2{seed}" for fold in (1, 2) for seed in ("", "_seed1")]
    assert pretended == names == row["runs"]
    found = [json.loads((tmp_path / name / "eval.json").read_text())["center"] for name in names]
    assert [entry["split"] for entry in found] == [1, 1, 2, 2]
    a, b, c, d = (entry["accuracy"] for entry in found)
    assert len({a, b, c, d}) > 2
    assert row["values"] == [[a, b], [c, d]] and row["seeds"] == 2 and row["splits"] == [1, 2]
    assert row["accuracy"] == pytest.approx((a + b + c + d) / 4)
    assert row["spread"] == pytest.approx(statistics.stdev([(a + b) / 2, (c + d) / 2]))
    assert row["videos"] == 27  # each video is tested once
    seeds = {json.loads((tmp_path / name / "config.json").read_text())["seed"] for name in names}
    assert seeds == {small.seed, small.seed + 1}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--table=: choose one of 2014-1a, 2014-1b, 2014-2, 2014-3, 2014-4, 2014-slow-fusion"),
        (["--table=2014-1c"], "--table=2014-1c: choose one of 2014-1a"),
        (["--table=2014-1b", "--config.table.scale=small"], "table.scale='small': choose one of full, tiny"),
        (["--table=2014-1b", "--config.table.seeds=0"], "table.seeds=0: must be at least 1"),
        (["--table=2014-2", "--config.table.hmdb51=no.py"], "table.hmdb51: --config=no.py: no such file"),
        (["--table=2014-1a", "--config.table.imagenet=no.py"], "table.imagenet: --config=no.py: no such file"),
        (["--table=2014-1b", "--workdir={run}"], "is the run of one net; name another folder for the table"),
        (["--mode=demo", "--table=2014-1b"], "--table: mode demo does not take it, only table"),
    ],
)
def test_mistakes_are_one_line(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    forbid_devices(monkeypatch)
    mode = [] if arguments and arguments[0].startswith("--mode") else ["--mode=table"]
    refused(capsys, [*mode, *(text.replace("{run}", str(tmp_path)) for text in arguments)], line)


def test_the_command_line_hands_over_the_data_sets_and_the_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(driver, "table", lambda *arguments: calls.append(arguments))
    for arguments in (
        ["--config.table.scale=tiny", "--config.table.seeds=3"],
        ["--config.table.imagenet=net.caffemodel"],
        ["--config=configs/weizmann4.py", "--config.table.scale=tiny"],
    ):
        assert run(capsys, "--mode=table", "--table=2014-1b", *arguments)[0] == 0
    (name, tiny, folder), (_, full, full_folder), (_, own, own_folder) = calls
    assert name == "2014-1b" and [str(f) for f in (folder, full_folder, own_folder)] == [
        "runs/table_tiny",
        "runs/table",
        "runs/table_weizmann4_tiny",
    ]
    assert set(tiny) == {"ucf101", "hmdb51", "imagenet"} and tiny["ucf101"].table.seeds == 3
    assert tiny["imagenet"].model.name == "cnn_m_spatial" and tiny["hmdb51"].data.seed == 1
    assert set(full) == {"ucf101", "hmdb51"} and full["hmdb51"].data.kind == "hmdb51"
    assert set(own) == {"ucf101"} and own["ucf101"].data.group_column == "actor"
    assert "table --table=2014-1b" in cli.USAGE
