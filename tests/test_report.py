from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from input_pipeline.schema import dequantise_flow
from twostream_jax.report import lettering, pictures, tables
from twostream_jax.report.flow_colour import colour_wheel, flow_to_colour
from twostream_jax.scores import ScoreFile


def make_scores(labels, predicted, classes, *, confidence=0.8, protocol="25x10") -> ScoreFile:
    """Return scores that give `confidence` to the predicted class and spread the rest."""
    labels, predicted = np.asarray(labels, np.int32), np.asarray(predicted)
    probs = np.full((len(labels), len(classes)), 0.0)
    probs += ((1 - np.asarray(confidence)) / (len(classes) - 1))[..., None]
    probs[np.arange(len(labels)), predicted] = confidence
    names = tuple(f"v{i}" for i in range(len(labels)))
    return ScoreFile(
        task="toy",
        split=2,
        subset="test",
        names=names,
        groups=names,
        labels=labels,
        classes=tuple(classes),
        probs=probs.astype(np.float32),
        logits=np.log(probs).astype(np.float32),
        protocol=protocol,
        provenance={},
    )


FOUR = ("bend", "jack", "skip", "wave")
# skip has no video; bend 2 of 3 right, jack 1 of 2, wave 1 of 1.
LABELS, PREDICTED = [0, 0, 0, 1, 1, 3], [0, 0, 1, 1, 3, 3]
CONFIDENCE = np.array([0.9, 0.9, 0.5, 0.9, 0.7, 0.9])


def four_classes() -> ScoreFile:
    return make_scores(LABELS, PREDICTED, FOUR, confidence=CONFIDENCE)


def random_scores(count: int, videos_each: int, seed: int = 0) -> ScoreFile:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count), videos_each)
    predicted = np.where(rng.random(len(labels)) < 0.7, labels, rng.integers(0, count, len(labels)))
    return make_scores(labels, predicted, [f"class_number_{i}" for i in range(count)])


def test_accuracy_entry_says_what_it_stands_on():
    entry = tables.accuracy_entry(four_classes())
    # Wilson for 4 of 6: (2/3 + z^2/12 +- z sqrt(1/27 + z^2/144)) / (1 + z^2/6) with z = 1.959964.
    assert entry.pop("interval95") == pytest.approx([0.2999933, 0.9032284], abs=1e-6)
    assert entry == {
        "accuracy": 4 / 6,
        "correct": 4,
        "videos": 6,
        "protocol": "25x10",
        "task": "toy",
        "split": 2,
        "folds": 0,
        "subset": "test",
    }
    json.dumps(entry)


def test_stream_summary_means_over_classes_with_videos():
    summary = tables.stream_summary(four_classes())
    assert summary["mean_class_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert "top5" not in summary, "of four classes the label is always among the first five"
    six = make_scores([5, 0], [0, 0], "abcdef")
    # For the first video class a leads and b .. f tie: f is the sixth by index.
    assert tables.stream_summary(six)["top5"] == 0.5


def test_class_recall_is_nan_without_videos():
    np.testing.assert_array_equal(tables.class_recall(four_classes()), [2 / 3, 1 / 2, np.nan, 1])


def test_most_confidently_wrong_come_in_order():
    wrong = tables.most_confidently_wrong(four_classes())
    assert [(row["video"], row["true"], row["predicted"]) for row in wrong] == [
        ("v4", "jack", "wave"),
        ("v2", "bend", "jack"),
    ]
    # (1 - .7) / 3 for each other class; probabilities are float32.
    assert wrong[0]["probability"] == pytest.approx(0.7, rel=1e-6)
    assert wrong[0]["probability_of_true"] == pytest.approx(0.1, rel=1e-6)
    assert len(tables.most_confidently_wrong(four_classes(), count=1)) == 1


def test_percent_and_setting():
    entry = {"accuracy": 52 / 54, "correct": 52, "videos": 54, "interval95": [0.8747, 0.98977]}
    assert tables.percent(entry) == "96.3 % (52/54)  95 %: [87.5, 99.0]"
    assert tables.setting({"task": "demo", "split": 1, "folds": 0, "subset": "test"}) == "demo split 1 test"
    assert tables.setting({"task": "demo", "split": 2, "folds": 5, "subset": "test"}) == "demo fold 2 of 5 test"


def test_markdown_table():
    text = tables.markdown_table([{"a": 1, "b": "x|y"}, {"a": 2, "b": "z"}])
    assert text == "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n| 2 | z |"


def test_json_without_nan(tmp_path):
    tables.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        tables.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def stream_eval(scores: ScoreFile) -> dict:
    """Return an eval.json: entries by protocol beside plain numbers."""
    clip = tables.accuracy_entry(scores) | {"protocol": "clip", "accuracy": 0.55, "correct": 3.3}
    return {"videos": 6, "clip": clip, "25x10": tables.accuracy_entry(scores), "mean_class_accuracy": 0.7}


def test_report_of_two_streams(tmp_path):
    spatial = four_classes()
    temporal = make_scores(LABELS, LABELS, FOUR)
    svm = make_scores(LABELS, [0] * 6, FOUR)
    report = tables.write_report(
        tmp_path,
        title="Toy run",
        streams={"spatial": spatial, "temporal": temporal},
        stream_evals={"spatial": stream_eval(spatial), "temporal": stream_eval(temporal)},
        fused={"average": spatial, "svm": svm},
        facts={"data": {"videos": 6}, "run_settings": {"seconds": 12.5}},
        pictures=[(tmp_path / "drawn" / "confusion.png", "Confusion matrix")],
    )
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert report["spatial"]["accuracy"] == 4 / 6 and report["temporal"]["accuracy"] == 1.0
    assert report["fusion"] == {"average": 4 / 6, "svm": 0.5}
    assert report["fusion_detail"]["svm"]["correct"] == 3
    assert [entry["protocol"] for entry in report["spatial"]["evals"]] == ["clip", "25x10"]
    assert report["chance"] == 0.25 and report["largest_class"] == 0.5 and report["data"] == {"videos": 6}
    assert report["per_class_recall"]["jack"] == {"videos": 2, "spatial": 0.5, "temporal": 1, "average": 0.5, "svm": 0}
    assert report["per_class_recall"]["skip"]["average"] is None
    text = (tmp_path / "report.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| spatial") or line.startswith("| fused")]
    assert rows == [
        "| spatial | `clip` | **55.0** | 30.0 to 90.3 | 3.3 / 6 | – | – | toy split 2 test |",
        "| spatial | `25x10` | **66.7** | 30.0 to 90.3 | 4 / 6 | 72.2 | – | toy split 2 test |",
        "| fused, average | `25x10` | **66.7** | 30.0 to 90.3 | 4 / 6 | 72.2 | – | toy split 2 test |",
        "| fused, svm | `25x10` | **50.0** | 18.8 to 81.2 | 3 / 6 | 33.3 | – | toy split 2 test |",
    ]
    assert "![Confusion matrix](drawn/confusion.png)" in text
    assert "Chance is 25.0 % (4 classes); always naming the largest class gives 50.0 %." in text
    assert "| `v4` | jack | wave | 0.70 | 0.10 |" in text
    assert "| skip | 0 | – | – | – | – |" in text
    assert "## Run settings\n\n| what | value |\n| --- | --- |\n| seconds | 12.5 |" in text


def test_report_of_one_stream_without_mistakes(tmp_path):
    temporal = make_scores(LABELS, LABELS, FOUR)
    report = tables.write_report(
        tmp_path / "new", title="One", streams={"temporal": temporal}, stream_evals={}, fused={}, facts={}, pictures=[]
    )
    assert report["fusion"] == {} and "spatial" not in report
    text = (tmp_path / "new" / "report.md").read_text()
    assert "None: all 6 videos are classified right." in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Most confidently wrong",
        "## Recall by class",
    ]


def test_flow_colours_by_hand():
    flow = np.array([[[0, 0], [2, 0], [0, 2], [-2, 0], [0, -2], [1, 0], [8, 0]]], np.float32)
    white, right, down, left, up, half, beyond = flow_to_colour(flow, max_px=2)[0].tolist()
    assert white == [255, 255, 255]
    assert right == beyond == [255, 0, 0]
    # Hue 1/4 lies halfway between yellow (1/6) and green (1/3): red is half, as rounded to even from 127.5.
    assert down == [128, 255, 0]
    assert left == [0, 255, 255]
    assert up == [128, 0, 255]
    assert half == [255, 128, 128]
    np.testing.assert_array_equal(flow_to_colour(np.zeros((2, 3, 2))), np.full((2, 3, 3), 255))
    # The field's own longest vector is the scale.
    assert flow_to_colour(flow)[0, 6].tolist() == [255, 0, 0]
    assert flow_to_colour(flow)[0, 1].tolist() == [255, 191, 191]


def test_flow_colours_equal_opencvs():
    flow = np.random.default_rng(0).normal(0, 3, (40, 50, 2)).astype(np.float32)
    length, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1], angleInDegrees=True)
    hsv = np.stack([angle, np.minimum(length / 5, 1), np.ones_like(length)], axis=-1)
    expected = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    # Half a level of rounding, and OpenCV's angle is good to 0.3 degrees: 255 * 0.3 / 60 levels.
    assert np.abs(flow_to_colour(flow, 5.0) - expected).max() < 0.5 + 1.3


def test_colour_wheel_is_clear_outside():
    wheel = colour_wheel(41)
    assert wheel.shape == (41, 41, 4)
    assert wheel[0, 0, 3] == 0 and wheel[20, 20].tolist() == [255, 255, 255, 255]
    assert wheel[20, 40].tolist() == [255, 0, 0, 255]


def picture(path) -> np.ndarray:
    """Return a PNG's RGB pixels; it has content all over, not only in a corner."""
    image = cv2.imread(str(path))
    assert image is not None and min(image.shape[:2]) > 100 and max(image.shape[:2]) < 4000
    height, width = image.shape[:2]
    for rows in (slice(0, height // 2), slice(height // 2, height)):
        for columns in (slice(0, width // 2), slice(width // 2, width)):
            assert image[rows, columns].std() > 1
    return image[..., ::-1]


@pytest.mark.parametrize("classes", [2, 9, 101])
def test_pictures_of_scores(tmp_path, classes):
    scores = random_scores(classes, 6)
    pictures.confusion_matrix(tmp_path / "new" / "confusion.png", scores)
    pictures.per_class_recall(tmp_path / "recall.png", {"spatial": scores, "fused": random_scores(classes, 6, seed=1)})
    picture(tmp_path / "new" / "confusion.png")
    picture(tmp_path / "recall.png")


def test_recall_is_matched_by_class_name(tmp_path):
    # The same scores with the classes listed the other way round draw the same picture.
    scores = four_classes()
    other = make_scores([3 - i for i in LABELS], [3 - i for i in PREDICTED], FOUR[::-1], confidence=CONFIDENCE)
    pictures.per_class_recall(tmp_path / "a.png", {"spatial": scores, "fused": scores})
    pictures.per_class_recall(tmp_path / "b.png", {"spatial": other, "fused": scores})
    np.testing.assert_array_equal(picture(tmp_path / "a.png"), picture(tmp_path / "b.png"))


def test_frames_beside_flow(tmp_path):
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    flow = rng.normal(0, 2, (48, 64, 2)).astype(np.float32)
    pictures.frames_beside_flow(tmp_path / "one.png", [("first", frame, flow)])
    pictures.frames_beside_flow(tmp_path / "two.png", [("first", frame, flow), ("still", frame, np.zeros_like(flow))])
    assert picture(tmp_path / "two.png").shape[0] > 1.5 * picture(tmp_path / "one.png").shape[0]


def test_a_still_field_is_pale_and_a_moving_one_keeps_its_scale(tmp_path, monkeypatch):
    """A zero field of bound 20 px decodes to b / 255 = .078 px everywhere, which by its own scale would be saturated."""
    step = 2 * 20 / 255
    still = dequantise_flow(np.full((8, 8, 2), 128, np.uint8), 20.0)
    nearly = still.copy()
    nearly[3, 3] = dequantise_flow(np.full(2, 127, np.uint8), 20.0)
    moving = np.random.default_rng(0).normal(0, 5, (40, 40, 2)).astype(np.float32)
    scales = []
    monkeypatch.setattr(
        pictures, "flow_to_colour", lambda flow, scale: scales.append(scale) or flow_to_colour(flow, scale)
    )
    frame = np.zeros((8, 8, 3), np.uint8)
    samples = [("still", frame, still), ("nearly", frame, nearly), ("moving", np.zeros((40, 40, 3), np.uint8), moving)]
    pictures.frames_beside_flow(tmp_path / "a.png", samples)
    percentile = np.percentile(np.abs(moving), 99.5)
    assert scales == pytest.approx([4 * step, 4 * step, percentile], rel=1e-4)
    # .078 px to each side is .11 px, an eighth of .63 px times the root of two: hardly a colour.
    assert flow_to_colour(still, scales[0]).min() > 255 * (1 - 0.18)


@pytest.mark.parametrize(
    ("stream", "channels", "count"),
    [("rgb", 3, 96), ("rgb", 3, 13), ("flow", 20, 96), ("flow", 20, 12), ("rgb", 15, 96), ("rgb", 6, 12)],
)
def test_filters(tmp_path, monkeypatch, stream, channels, count):
    """Rows of a flow net are fields, those of slow fusion frames, whose conv1 may see an even number of channels too."""
    figures = []
    save = pictures.save
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    kernel = np.random.default_rng(0).normal(size=(7, 7, channels, count)).astype(np.float32)
    pictures.filters(tmp_path / "filters.png", kernel, stream)
    picture(tmp_path / "filters.png")
    (axes,) = figures[0].axes
    rows = [label.get_text() for label in axes.get_yticklabels()]
    if channels == 3:
        assert rows == [] and axes.get_title(loc="left") == f"{count} filters of the first layer"
    elif stream == "flow":
        assert rows[:4] == ["$d^x_{1}$", "$d^y_{1}$", "$d^x_{2}$", "$d^y_{2}$"] and rows[-1] == "$d^y_{10}$"
    else:
        assert rows[:4] == ["frame 1 red", "frame 1 green", "frame 1 blue", "frame 2 red"]
        assert rows[-1] == f"frame {channels // 3} blue"
    # A tile a row and a filter, 7 px and a line each; tiles of colour stand sixteen in a row.
    height, width = axes.images[0].get_array().shape[:2]
    tiles = (-(-count // 16), min(16, count)) if channels == 3 else (channels, count)
    assert (height, width) == (8 * tiles[0] + 1, 8 * tiles[1] + 1)


def test_filters_keep_their_place():
    tiles = np.arange(6.0).reshape(6, 1, 1, 1) / 10
    image = pictures._mosaic(tiles, columns=3)
    np.testing.assert_array_equal(image[1::2, 1::2, 0], [[0, 0.1, 0.2], [0.3, 0.4, 0.5]])
    assert (image[::2] == 1).all() and (image[:, ::2] == 1).all()


def test_every_bar_and_a_single_point_can_be_seen(tmp_path, monkeypatch):
    figures = []
    save = pictures.save
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    wrong = make_scores([0, 1], [1, 0], "ab")
    pictures.per_class_recall(tmp_path / "recall.png", {"spatial": wrong, "fused": make_scores([0, 1], [0, 0], "ab")})
    axes = figures[0].axes[0]
    # Spatial: both wrong; fused: a right, b wrong.
    assert [text.get_text() for text in axes.texts] == ["0", "0", "100", "0"]
    assert figures[0].legends[0].get_title().get_text() == "toy split 2 test, 25x10, 2 videos"
    pictures.training_curves(tmp_path / "t.png", {"spatial": [{"step": 6, "loss": 1.0, "clip_accuracy": 0.5}]})
    for axes in figures[1].axes:
        assert axes.lines[-1].get_marker() == "o"
    assert figures[1].axes[0].get_ylim() == pytest.approx((0, 1.05))  # the point is not cut by the frame
    assert figures[1].axes[1].get_ylabel() == "clip accuracy on training batches"
    pictures.confusion_matrix(tmp_path / "c.png", wrong)
    assert figures[2].axes[0].get_title(loc="left").startswith("toy split 2 test, 25x10\n0.0 % (0/2)  95 %: [0.0, ")


def test_names_of_any_letters_are_drawn(tmp_path, recwarn, monkeypatch):
    monkeypatch.setattr(lettering, "font_of", lambda letter: None if letter in "漢字" else lettering.PLAIN)
    assert lettering.readable("漢字_wave") == "[6F22][5B57] wave"
    assert lettering.readable("прыжок\n$x_1$") == r"прыжок \$x 1\$"
    assert lettering.readable("x" * 41) == "x" * 39 + "…" and lettering.readable("x" * 40) == "x" * 40
    assert lettering.drawable("v_a_$" * 20) == r"v_a_\$" * 20
    names = ("漢字", "прыжок", "a$b$c", "$", "a\nb", "x" * 300)
    scores = make_scores(range(6), range(6), names)
    pictures.confusion_matrix(tmp_path / "c.png", scores)
    pictures.per_class_recall(tmp_path / "r.png", {"fused": scores})
    frame = np.zeros((8, 8, 3), np.uint8)
    pictures.frames_beside_flow(tmp_path / "f.png", [("漢_$a_$", frame, np.ones((8, 8, 2)))])
    picture(tmp_path / "c.png")
    assert not [str(warning.message) for warning in recwarn.list if "lyph" in str(warning.message)]


def test_another_font_is_taken_where_it_has_the_letter(monkeypatch):
    lettering.font_of.cache_clear()
    # The mathematical letter 𝔄 is in fonts that come with matplotlib, the private sign U+E0FF in none.
    assert lettering.font_of("a") == lettering.PLAIN and lettering.font_of("\ue0ff") is None
    found = lettering.font_of("\U0001d504")
    assert found and lettering.families(["a", "\U0001d504", "\ue0ff"]) == sorted(
        {lettering.PLAIN, found}, key=lambda name: name != lettering.PLAIN
    )
    # A font that cannot be read has no letters.
    assert lettering._characters("/nosuch.ttf") == frozenset()


def test_training_curves(tmp_path):
    lines = [{"step": s, "loss": 2 / s, "clip_accuracy": 1 - 1 / s} for s in range(1, 60)]
    lines.insert(30, {"step": 30, "validation_accuracy": 0.8})
    pictures.training_curves(tmp_path / "curves.png", {"spatial": lines, "temporal": lines[:40]})
    picture(tmp_path / "curves.png")
    pictures.training_curves(tmp_path / "empty.png", {"spatial": []})
    assert (tmp_path / "empty.png").stat().st_size > 0
