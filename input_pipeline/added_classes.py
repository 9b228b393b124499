"""HMDB-51 with classes added from UCF-101 (2014 paper, Sect. 6, Table 2): which are left out, and the list of both.

The paper adds "78 classes from UCF-101, which are manually selected so that there is no intersection between these
classes and the native HMDB-51 classes", and does not print them. The selection below is ours.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from input_pipeline import subsets
from input_pipeline.schema import UserError
from input_pipeline.video_list import VideoList

# The 23 classes of UCF-101 left out, and the HMDB-51 class that each meets: the same action, or one that is a case of
# it. What stays is near at most in one motion of a sport of its own, which HMDB-51's everyday class does not show: the
# throws of athletics, baseball and cricket (throw), the jumps of athletics and gymnastics (jump), marching in
# formation (walk), juggling a football (kick_ball), push-ups against a wall (pushup), blow-drying hair (brush_hair).
MEETS = {
    "Archery": ("shoot_bow", "the same action"),
    "Basketball": ("shoot_ball", "shooting a basketball is what shoot_ball shows"),
    "BasketballDunk": ("shoot_ball", "a dunk is a shot at the basket, mostly after a dribble"),
    "Biking": ("ride_bike", "the same action"),
    "BoxingPunchingBag": ("punch", "punches, at a bag"),
    "BoxingSpeedBag": ("punch", "punches, at a bag"),
    "CliffDiving": ("dive", "HMDB-51's dives are from cliffs and towers too"),
    "Diving": ("dive", "the same action"),
    "Fencing": ("fencing", "the same action"),
    "FloorGymnastics": ("flic_flac", "a series of flic-flacs, cartwheels and somersaults"),
    "FrisbeeCatch": ("catch", "a catch, of a frisbee"),
    "GolfSwing": ("golf", "the same action"),
    "HandstandPushups": ("handstand", "done in a handstand"),
    "HandstandWalking": ("handstand", "walking in a handstand"),
    "HorseRace": ("ride_horse", "riding a horse, in a race"),
    "HorseRiding": ("ride_horse", "the same action"),
    "PullUps": ("pullup", "the same action"),
    "Punch": ("punch", "the same action"),
    "PushUps": ("pushup", "the same action"),
    "RockClimbingIndoor": ("climb", "climbing, on a wall"),
    "RopeClimbing": ("climb", "climbing, on a rope"),
    "SoccerPenalty": ("kick_ball", "a football is kicked"),
    "WalkingWithDog": ("walk", "a person walks"),
}


def added_classes(classes: tuple[str, ...], native: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the classes that may be added to the native ones: none of `MEETS`, and no name in both."""
    there = {name.casefold() for name in native}
    return tuple(name for name in classes if name not in MEETS and name.casefold() not in there)


def merged_csv(native: VideoList, other: VideoList, *, folds: int, seed: int) -> tuple[str, Path]:
    """Return the text of a CSV of both lists' videos, and the folder that its paths are relative to.

    The native videos keep their splits (or the `folds` made of their groups with `seed`), written as split1, split2, ...;
    of the other list the added classes' videos train in every split. Raises UserError where there is no file to list.
    """
    added = added_classes(other.classes, native.classes)
    borrowed = [video for video in other.videos if other.classes[video.label] in added]
    if not borrowed or any(video.source for video in (*native.videos, *borrowed)):
        raise UserError(
            f"classes of {other.name} cannot be added to {native.name}: "
            "no class is left, or what is listed are no video files"
        )
    count = folds or len(native.splits)
    rows = [[video.path, native.classes[video.label], f"{native.name}/{video.group}"] for video in native.videos]
    for split in range(1, count + 1):
        name = split if folds else int(native.splits[split - 1])
        chosen = subsets.select(native.videos, split=name, folds=folds, validation_fraction=0.0, seed=seed)
        for subset in ("train", "test"):
            for position in chosen[subset]:
                rows[position].append(subset)
        for row in rows:
            row.extend([""] * (3 + split - len(row)))
    rows += [
        [video.path, other.classes[video.label], f"{other.name}+/{video.group}"] + ["train"] * count
        for video in borrowed
    ]
    root = Path(os.path.commonpath([row[0].parent for row in rows]))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "group", *(f"split{split}" for split in range(1, count + 1))])
    writer.writerows([row[0].relative_to(root).as_posix(), *row[1:]] for row in rows)
    return text.getvalue(), root
