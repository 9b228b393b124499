"""The tables of the 2014 two-stream paper as data: what each row trains, and what the paper prints (Sect. 6).

A net's `data` is the paper's data set; what stands in its place is the user's to say (`table.*` in configs/base.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Place of HMDB-51 with the classes added from UCF-101.
ADDED = "hmdb51+ucf101"
# Every layer but the last.
BELOW_FULL8 = ("conv1", "conv2", "conv3", "conv4", "conv5", "full6", "full7")


@dataclass(frozen=True)
class Net:
    """One training: `settings` are (key of configs/base.py, value) where they differ from the recipe of the 2014 nets."""

    name: str  # readable, part of its run's folder
    data: str  # "ucf101" | "hmdb51" | "imagenet" | ADDED
    settings: tuple[tuple[str, Any], ...]
    schedule: str = "scratch"  # scratch | fine-tuning (Sect. 5) | own: that of the data set's config
    start: Net | None = None  # where its weights come from
    # A second task whose videos, of all splits together, are trained along (Sect. 4).
    along: str = ""

    @property
    def bidirectional(self) -> bool:
        """Whether it needs records with backward flow."""
        return ("input.bidirectional", True) in self.settings


@dataclass(frozen=True)
class Row:
    """One number of the paper: of one net, or of two whose scores are fused."""

    setting: str  # as the paper words it
    paper: float  # accuracy, %
    nets: tuple[Net, ...]
    fusion: str = ""  # "" | average | svm
    splits: int = 1  # 1: split 1; 3: the mean over three

    @property
    def data(self) -> str:
        """Place of the data set whose test videos are scored."""
        return self.nets[0].data


@dataclass(frozen=True)
class Table:
    """One table: its caption and its rows in the paper's order."""

    caption: str
    rows: tuple[Row, ...]


_RGB = (("model.name", "cnn_m_spatial"), ("input.streams", ("rgb",)))
_FLOW = (("model.name", "cnn_m_temporal"), ("input.streams", ("flow",)), ("model.dropout", 0.9))

IMAGENET = Net("spatial_pretraining", "imagenet", _RGB, schedule="own")


def _scratch(dropout: float) -> Net:
    return Net(f"spatial_scratch_dropout{dropout}", "ucf101", (*_RGB, ("model.dropout", dropout)))


def _tuned(dropout: float) -> Net:
    settings = (*_RGB, ("model.dropout", dropout))
    return Net(f"spatial_finetuned_dropout{dropout}", "ucf101", settings, "fine-tuning", IMAGENET)


def _last_layer(dropout: float, data: str = "ucf101") -> Net:
    # The paper names the two schedules only; training the last layer on pre-trained ones is taken as fine-tuning.
    settings = (*_RGB, ("model.dropout", dropout), ("init.freeze", BELOW_FULL8))
    return Net(f"spatial_lastlayer_dropout{dropout}", data, settings, "fine-tuning", IMAGENET)


def _temporal(stack: int, *more: tuple[str, Any], data: str = "ucf101", mean: bool = True, **kind: Any) -> Net:
    names = {"input.stacking": "trajectory", "input.bidirectional": "flow_bidirectional"}
    stacking = next((names[key] for key, _ in more), "flow")
    name = f"temporal_L{stack}_{stacking}_{'mean' if mean else 'nomean'}"
    settings = (*_FLOW, ("input.stack", stack), ("input.mean_subtraction", mean), *more)
    return Net(name + kind.pop("suffix", ""), data, settings, **kind)


_TRAJECTORY = ("input.stacking", "trajectory")
_BIDIRECTIONAL = ("input.bidirectional", True)

TEMPORAL = _temporal(10)
BOTH_WAYS = _temporal(10, _BIDIRECTIONAL)
SLOW_FUSION = Net(
    "slow_fusion_T11",
    "ucf101",
    (
        ("model.name", "slow_fusion"),
        ("input.streams", ("rgb",)),
        ("input.clip_frames", 11),
        ("model.dropout", 0.9),
    ),
)


def _multi_task(data: str) -> Net:
    return _temporal(10, data=data, along="hmdb51" if data == "ucf101" else "ucf101", suffix="_multitask")


# From Table 1a: "in the following experiments we opted for training the last layer", at its better dropout.
def _streams(data: str) -> tuple[Net, Net]:
    return (_last_layer(0.5, data), _multi_task(data))


def _three_splits(data: str, *accuracies: float) -> tuple[Row, ...]:
    spatial, temporal = _streams(data)
    spatial_paper, temporal_paper, average, svm = accuracies
    where = {"ucf101": "UCF-101", "hmdb51": "HMDB-51"}[data]
    return (
        Row(f"{where}: Spatial stream ConvNet", spatial_paper, (spatial,), splits=3),
        Row(f"{where}: Temporal stream ConvNet", temporal_paper, (temporal,), splits=3),
        Row(f"{where}: Two-stream model (fusion by averaging)", average, (spatial, temporal), "average", 3),
        Row(f"{where}: Two-stream model (fusion by SVM)", svm, (spatial, temporal), "svm", 3),
    )


TABLES = {
    "2014-1a": Table(
        "Table 1a: spatial ConvNet, UCF-101 (split 1)",
        (
            Row("From scratch, dropout 0.5", 42.5, (_scratch(0.5),)),
            Row("From scratch, dropout 0.9", 52.3, (_scratch(0.9),)),
            Row("Pre-trained + fine-tuning, dropout 0.5", 70.8, (_tuned(0.5),)),
            Row("Pre-trained + fine-tuning, dropout 0.9", 72.8, (_tuned(0.9),)),
            Row("Pre-trained + last layer, dropout 0.5", 72.7, (_last_layer(0.5),)),
            Row("Pre-trained + last layer, dropout 0.9", 59.9, (_last_layer(0.9),)),
        ),
    ),
    "2014-1b": Table(
        "Table 1b: temporal ConvNet, UCF-101 (split 1)",
        (
            Row("Single-frame optical flow (L = 1), mean subtraction on", 73.9, (_temporal(1),)),
            Row("Optical flow stacking (1) (L = 5), mean subtraction on", 80.4, (_temporal(5),)),
            Row("Optical flow stacking (1) (L = 10), mean subtraction off", 79.9, (_temporal(10, mean=False),)),
            Row("Optical flow stacking (1) (L = 10), mean subtraction on", 81.0, (TEMPORAL,)),
            Row(
                "Trajectory stacking (2) (L = 10), mean subtraction off",
                79.6,
                (_temporal(10, _TRAJECTORY, mean=False),),
            ),
            Row("Trajectory stacking (2) (L = 10), mean subtraction on", 80.2, (_temporal(10, _TRAJECTORY),)),
            Row("Optical flow stacking (1) (L = 10), bi-dir., mean subtraction on", 81.2, (BOTH_WAYS,)),
        ),
    ),
    "2014-2": Table(
        "Table 2: temporal ConvNet, HMDB-51 (split 1 with additional training data)",
        (
            Row("Training on HMDB-51 without additional data", 46.6, (_temporal(10, data="hmdb51"),)),
            Row(
                "Fine-tuning a ConvNet, pre-trained on UCF-101",
                49.0,
                (_temporal(10, data="hmdb51", schedule="fine-tuning", start=TEMPORAL, suffix="_finetuned"),),
            ),
            Row(
                "Training on HMDB-51 with classes added from UCF-101",
                52.8,
                (_temporal(10, data=ADDED),),
            ),
            Row("Multi-task learning on HMDB-51 and UCF-101", 55.4, (_multi_task("hmdb51"),)),
            Row("UCF-101 split 1, multi-task learning with HMDB-51 (Sect. 6)", 81.5, (_multi_task("ucf101"),)),
        ),
    ),
    "2014-3": Table(
        "Table 3: two-stream ConvNet, UCF-101 (split 1)",
        (
            Row("last layer; bi-directional; averaging", 85.6, (_last_layer(0.5), BOTH_WAYS), "average"),
            Row("last layer; uni-directional; averaging", 85.9, (_last_layer(0.5), TEMPORAL), "average"),
            Row("last layer; uni-directional, multi-task; averaging", 86.2, _streams("ucf101"), "average"),
            Row("last layer; uni-directional, multi-task; SVM", 87.0, _streams("ucf101"), "svm"),
        ),
    ),
    "2014-4": Table(
        "Table 4: mean accuracy over three splits",
        (
            *_three_splits("ucf101", 73.0, 83.7, 86.9, 88.0),
            *_three_splits("hmdb51", 40.5, 54.6, 58.0, 59.4),
        ),
    ),
    "2014-slow-fusion": Table(
        "Sect. 6: slow fusion of 11 RGB frames against a single frame, both from scratch, UCF-101 (split 1)",
        (
            Row("Single frame, dropout 0.9", 52.3, (_scratch(0.9),)),
            Row("Slow fusion, 11 frames", 56.4, (SLOW_FUSION,)),
        ),
    ),
}


def all_nets() -> Iterator[Net]:
    """Yield every net of every table, those that others start from included."""
    for table in TABLES.values():
        for row in table.rows:
            for net in row.nets:
                yield net
                if net.start:
                    yield net.start
