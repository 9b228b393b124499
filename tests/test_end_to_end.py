"""The commands of README.md, run as a user would, on the embedded videos and on real clips; minutes each."""

import json
import subprocess
import sys

import cv2
import pytest
from conftest import REPOSITORY, cpu_environment

pytestmark = pytest.mark.slow


def command(*arguments, cwd=REPOSITORY) -> str:
    """Return what a command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "run.py"), *map(str, arguments)],
        cwd=cwd,
        env=cpu_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_report(workdir):
    """Return report.json after checking what every report must hold."""
    report = json.loads((workdir / "report.json").read_text())
    assert 0 <= report["spatial"]["accuracy"] <= 1 and 0 <= report["temporal"]["accuracy"] <= 1
    assert set(report["fusion"]) == {"average", "svm"}
    text = (workdir / "report.md").read_text()
    for picture in report["pictures"]:
        assert picture["file"] in text
        image = cv2.imread(str(workdir / picture["file"]))
        assert min(image.shape[:2]) > 200 and image.std() > 5
    return report


def test_the_demo_as_it_is(tmp_path):
    out = command(cwd=tmp_path)
    workdir = tmp_path / "runs" / "demo"
    report = check_report(workdir)
    better = max(report["spatial"]["accuracy"], report["temporal"]["accuracy"])
    for fused in report["fusion"].values():
        assert fused >= 0.9 and fused >= better + 0.25
    assert {"videos", "records", "spatial", "temporal", "fused"} <= {path.name for path in workdir.iterdir()}
    assert "25x10  synthetic split 1 test" in out
    # What README shows next: eval of the newest run, fusion by hand, a prediction, an inspection.
    assert "25x10" in command("--mode=eval", cwd=tmp_path)
    scores = [f"runs/demo/{stream}/scores_synthetic_split1_test.npz" for stream in ("spatial", "temporal")]
    fused = command("--mode=fuse", f"--scores={','.join(scores)}", "--workdir=runs/mine", cwd=tmp_path)
    assert f"{100 * report['fusion']['average']:.1f} %" in fused
    clip = next((workdir / "videos").glob("red-swing/*.avi"))
    prediction = json.loads(command("--mode=predict", f"--video={clip}", cwd=tmp_path))
    assert prediction["fused"]["top"][0]["class"] == "red-swing"
    assert "conv1/kernel" in command("--mode=inspect", cwd=tmp_path)
    # Again: everything is there, nothing is trained anew.
    again = command(cwd=tmp_path)
    assert again.count("nothing to do") == 2


def test_weizmann4(data_dir, tmp_path):
    split_file = data_dir / "weizmann4" / "split.csv"
    command(
        "--mode=demo",
        "--config=configs/weizmann4.py",
        f"--workdir={tmp_path}",
        f"--config.data.split_file={split_file}",
    )
    report = check_report(tmp_path)
    assert report["temporal"]["protocol"] == "25x10" and report["temporal"]["videos"] == 8
    assert report["temporal"]["correct"] >= 7
    assert report["fusion_detail"]["average"]["correct"] >= 7


def test_folds_and_official_lists(data_dir, tmp_path):
    """fight over its folds and mini6 over the official lists, with a net and a schedule too small to learn."""
    tiny = [
        "--config.model.width=0.0625", "--config.train.steps=2", "--config.train.batch_size=4",
        "--config.optim.drops=()", "--config.eval.frames=1", "--config.data.short_side=64", "--config.input.crop=56",
    ]  # fmt: skip
    command(
        "--mode=demo", "--config=configs/fight.py", f"--workdir={tmp_path / 'fight'}", "--config.data.folds=2",
        f"--config.data.split_file={data_dir / 'fight' / 'split.csv'}", *tiny,
    )  # fmt: skip
    report = json.loads((tmp_path / "fight" / "report.json").read_text())
    assert report["splits"] == 2 and report["temporal"]["videos"] == 192
    assert len(report["temporal"]["by_split"]) == 2
    assert all((tmp_path / "fight" / f"split{k}" / "report.md").exists() for k in (1, 2))
    command(
        "--mode=demo", "--config=configs/mini6.py", f"--workdir={tmp_path / 'mini6'}",
        f"--config.data.videos={data_dir / 'ucf101'}", f"--config.data.splits={data_dir / 'splits' / 'ucf101'}", *tiny,
    )  # fmt: skip
    report = check_report(tmp_path / "mini6")
    assert report["temporal"]["videos"] == 8 and report["data"]["videos"] == 24 and report["data"]["classes"] == 6


def test_the_default_flow_at_256_px(data_dir, tmp_path):
    """The default method and the paper's size on the first frames of two real clips; the paper's net takes the records."""
    rows = ["path,label,split"]
    for label, split in [("Biking", "train"), ("Diving", "test")]:
        clip = sorted((data_dir / "ucf101" / label).glob("*.avi"))[0]
        capture = cv2.VideoCapture(str(clip))
        writer = cv2.VideoWriter(str(tmp_path / f"{label}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240))
        for _ in range(12):
            writer.write(capture.read()[1])
        writer.release()
        rows.append(f"{label}.avi,{label},{split}")
    (tmp_path / "split.csv").write_text("\n".join(rows) + "\n")
    common = [
        "--config=configs/temporal.py", "--config.data.kind=csv", f"--config.data.split_file={tmp_path / 'split.csv'}",
        f"--config.data.records={tmp_path / 'records'}", "--config.data.videos=",
    ]  # fmt: skip
    assert "22 flow pairs" in command("--mode=prepare", "--dry_run", *common)
    assert not (tmp_path / "records").exists()
    said = command("--mode=prepare", *common)
    assert "flow.method=auto: jax_tvl1\n" in said and "22 flow pairs (jax_tvl1)" in said
    dataset = json.loads((tmp_path / "records" / "dataset.json").read_text())
    assert (
        dataset["short_side"] == 256 and dataset["flow"]["method"] == "jax_tvl1" and dataset["flow"]["bound_px"] == 20.0
    )
    assert all((video["height"], video["width"]) == (256, 342) for video in dataset["videos"])
    command(
        "--mode=train", *common, f"--workdir={tmp_path / 'run'}", "--config.train.steps=1", "--config.train.batch_size=2",
        "--config.model.width=0.0625",
    )  # fmt: skip
