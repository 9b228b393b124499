from __future__ import annotations

import hashlib
import time
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from input_pipeline import subsets
from input_pipeline.schema import UserError
from input_pipeline.subsets import select


def video(name: str, label: int, group: str, **subsets: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, label=label, group=group, subsets={k[1:]: v for k, v in subsets.items()})


def random_videos(seed: int, groups: int, classes: int) -> list[SimpleNamespace]:
    rng = np.random.default_rng(seed)
    return [
        video(f"g{g}_{i}", int(rng.integers(classes)), f"g{g}", s1="train")
        for g in range(groups)
        for i in range(rng.integers(1, 9))
    ]


def choose(videos, *, split=1, folds=0, validation_fraction=0.0, seed=0, section="data"):
    division = {"split": split, "folds": folds, "validation_fraction": validation_fraction}
    return select(videos, **division, seed=seed, section=section)


def test_stored_splits_by_hand():
    videos = [
        video("a", 0, "p", s1="train", s2="test"),
        video("b", 0, "q", s1="test", s2="train"),
        video("c", 1, "q", s1="test"),
        video("d", 1, "p", s2="train"),
    ]
    assert choose(videos, split=1) == {"train": (0,), "validation": (), "test": (1, 2)}
    assert choose(videos, split=2) == {"train": (1, 3), "validation": (), "test": (0,)}


def test_split_0_trains_on_all_that_are_in_any_split_and_tests_on_none():
    videos = [
        video("a", 0, "p", s1="train", s2="test"),
        video("none", 0, "q"),
        video("b", 0, "r", s2="test"),
        video("c", 1, "s", s3="train"),
    ]
    for folds in (0, 2):
        assert choose(videos, split=0, folds=folds) == {"train": (0, 2, 3), "validation": (), "test": ()}
    held = choose(videos, split=0, validation_fraction=0.4)
    assert len(held["validation"]) == 1 and sorted(held["train"] + held["validation"]) == [0, 2, 3]


def test_folds_partition_whole_groups_of_listed_videos():
    videos = [*random_videos(0, 23, 4), video("unlisted", 0, "g0")]
    tests = []
    for fold in range(1, 6):
        chosen = choose(videos, split=fold, folds=5)
        assert sorted(chosen["train"] + chosen["test"]) == list(range(len(videos) - 1))
        assert not {videos[i].group for i in chosen["train"]} & {videos[i].group for i in chosen["test"]}
        tests.extend(chosen["test"])
    assert sorted(tests) == list(range(len(videos) - 1))


def test_folds_balance_size_and_classes():
    # Twelve groups of three videos, four groups of each class: each of four folds gets one group of every class.
    videos = [video(f"{g}{i}", g % 3, f"g{g}", s1="train") for g in range(12) for i in range(3)]
    for fold in (1, 2, 3, 4):
        test = choose(videos, split=fold, folds=4)["test"]
        assert Counter(videos[i].label for i in test) == {0: 3, 1: 3, 2: 3}
    # Groups of 4, 3, 3, 2 videos of one class: the largest first gives 4 + 2 and 3 + 3.
    sizes = [video(f"{g}{i}", 0, f"g{g}", s1="train") for g, n in enumerate((3, 4, 2, 3)) for i in range(n)]
    assert [len(choose(sizes, split=fold, folds=2)["test"]) for fold in (1, 2)] == [6, 6]


@pytest.mark.parametrize("folds", [0, 3])
def test_choice_does_not_hang_on_order(folds):
    videos = random_videos(1, 20, 3)
    videos[0].subsets["1"] = videos[-1].subsets["1"] = "test"
    order = np.random.default_rng(2).permutation(len(videos))
    shuffled = [videos[i] for i in order]
    options = {"folds": folds, "validation_fraction": 0.25, "seed": 3}
    for subset, positions in choose(videos, **options).items():
        assert list(positions) == sorted(positions)
        names = {videos[i].name for i in positions}
        assert names == {shuffled[i].name for i in choose(shuffled, **options)[subset]}


def test_seed_decides_between_equal_groups_and_is_stable():
    videos = [video(f"v{g}", 0, f"g{g}", s1="train" if g else "test") for g in range(30)]
    chosen = [choose(videos, validation_fraction=0.2, seed=seed)["validation"] for seed in range(4)]
    assert len(set(chosen)) == 4
    folds = [choose(videos, folds=3, seed=seed)["test"] for seed in range(4)]
    assert len(set(folds)) == 4
    # Equal groups go in the order of the SHA-256 of "seed:group", the same in every process and on every machine.
    order = sorted(range(1, 30), key=lambda g: hashlib.sha256(f"7:g{g}".encode()).hexdigest())
    assert choose(videos, validation_fraction=0.1, seed=7)["validation"] == tuple(sorted(order[:3]))


def test_validation_takes_the_share_of_groups_and_never_all():
    videos = [video(f"v{g}{i}", i, f"g{g}", s1="test" if g == 20 else "train") for g in range(21) for i in range(2)]
    for fraction, groups in ((0.01, 1), (0.1, 2), (0.25, 5), (0.99, 19)):
        chosen = choose(videos, validation_fraction=fraction)
        held = {videos[i].group for i in chosen["validation"]}
        assert len(held) == groups
        assert len(chosen["validation"]) == 2 * groups and len(chosen["train"]) == 40 - 2 * groups
        assert not held & {videos[i].group for i in chosen["train"]}
        assert chosen["test"] == (40, 41)


def test_validation_leaves_every_class_in_training_and_holds_each():
    # Class 2 lives in group g0 alone, so g0 is never held out; the rest alternate between classes 0 and 1.
    videos = [video(f"v{g}", 2 if g == 0 else g % 2, f"g{g}", s1="train") for g in range(9)]
    videos.append(video("t", 0, "t", s1="test"))
    for seed in range(20):
        chosen = choose(videos, validation_fraction=0.5, seed=seed)
        assert {videos[i].label for i in chosen["train"]} == {0, 1, 2}
        # round(0.5 * 9) = 4 groups, as even between the two classes as four groups can be.
        assert Counter(videos[i].label for i in chosen["validation"]) == {0: 2, 1: 2}


def by_groups(videos, wanted, seed) -> list[int]:
    """Return the held-out videos, each a group, by the rule as it is told: a table of videos and classes, one by one."""
    order = sorted(range(len(videos)), key=lambda i: hashlib.sha256(f"{seed}:{videos[i].group}".encode()).hexdigest())
    totals = Counter(video.label for video in videos)
    held, chosen = Counter(), []
    while len(chosen) < wanted:
        share = Fraction(len(chosen) + 1, len(videos))

        def distance(i, share=share):
            after = held + Counter([videos[i].label])
            return sum((after[label] - share * n) ** 2 / n for label, n in totals.items())

        free = [i for i in order if i not in chosen and held[videos[i].label] < totals[videos[i].label] - 1]
        if not free:
            break
        chosen.append(min(free, key=distance))
        held[videos[chosen[-1]].label] += 1
    return sorted(chosen)


@pytest.mark.parametrize("seed", range(6))
def test_videos_that_are_groups_are_held_out_by_the_same_rule(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, 40, p=(0.5, 0.25, 0.15, 0.05, 0.05))
    videos = [video(f"v{i}", int(label), f"v{i}", s1="train") for i, label in enumerate(labels)]
    test = [video("t", 0, "t", s1="test")]
    for fraction in (0.1, 0.33, 0.98):
        held = choose(videos + test, validation_fraction=fraction, seed=seed)["validation"]
        assert list(held) == by_groups(videos, round(fraction * 40), seed)
        assert set(labels) == {labels[i] for i in range(40) if i not in held}
    # Groups of several videos go by the same rule.
    assert subsets._choose_groups(videos, range(40), 12, seed) == subsets._choose_videos(videos, range(40), 12, seed)


def test_many_videos_without_groups_are_divided_quickly():
    videos = [video(f"v{i}", i % 1000, f"v{i}", s1="train") for i in range(50_000)]
    begun = time.process_time()
    held = choose([*videos, video("t", 0, "t", s1="test")], validation_fraction=0.1)["validation"]
    # Half a second; by a table of videos and classes more than ten minutes and 400 MB.
    assert time.process_time() - begun < 10
    assert set(Counter(videos[i].label for i in held).values()) == {5}


def test_validation_is_taken_from_the_training_folds():
    videos = random_videos(4, 24, 3)
    chosen = choose(videos, split=2, folds=4, validation_fraction=0.2)
    groups = [{videos[i].group for i in chosen[subset]} for subset in ("train", "validation", "test")]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 24
    assert len(groups[1]) == round(0.2 * (24 - len(groups[2])))
    assert chosen["test"] == choose(videos, split=2, folds=4)["test"]


BOTH = [video("a", 0, "p", s1="train"), video("b", 0, "q", s1="test"), video("c", 0, "q", s2="train")]


@pytest.mark.parametrize(
    ("videos", "options", "message"),
    [
        (BOTH, {"split": 3}, r"data\.split=3 is not stored \(the records hold: 1, 2\)"),
        (BOTH, {"split": 2}, r"data\.split=2 has no test videos"),
        ([video("a", 0, "p", s1="test")], {}, r"data\.split=1 has no train videos"),
        ([], {}, r"data\.split=1 is not stored \(the records hold: none\)"),
        (BOTH, {"folds": 1}, r"data\.folds=1 is not a number of folds"),
        (BOTH, {"folds": -2}, r"data\.folds=-2 is not"),
        (BOTH, {"folds": 2, "split": 3}, r"data\.split=3 is outside 1\.\.2"),
        (BOTH, {"folds": 2, "split": -1}, r"data\.split=-1 is outside 1\.\.2"),
        (
            BOTH,
            {"folds": 2, "split": 3, "section": "tasks.a"},
            r"tasks\.a\.split=3 is outside 1\.\.2, the folds that tasks\.a\.folds",
        ),
        (BOTH, {"folds": 3}, r"data\.folds=3 is more than the 2 groups"),
        (BOTH, {"validation_fraction": 0.5}, r"data\.validation_fraction=0\.5 needs at least 2 training groups"),
        (BOTH, {"validation_fraction": 1.0}, r"data\.validation_fraction=1\.0 is outside"),
        (BOTH, {"validation_fraction": -0.1}, r"data\.validation_fraction=-0\.1 is outside"),
        (
            [*BOTH, video("d", 1, "r", s1="train")],
            {"validation_fraction": 0.5},
            r"data\.validation_fraction=0\.5: every training group holds all videos of some class",
        ),
    ],
)
def test_errors(videos, options, message):
    with pytest.raises(UserError, match=message):
        choose(videos, **options)
