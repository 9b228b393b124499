"""The data sets that a config trains or tests on, a head each: their records, opened, and who is in which subset."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline import sampling, store, subsets
from input_pipeline.schema import UserError, shown_name
from twostream_jax import validate, validate_run
from twostream_jax.drivers.input_checks import check_directions


@dataclass(frozen=True)
class Task:
    """One data set under a config; its name is that of its head, its scores and its numbers in metrics.jsonl."""

    name: str
    section: str  # of the config: data, or tasks.NAME
    settings: ConfigDict  # the section, or what of it is a task's
    records: store.Records
    positions: dict[str, tuple[int, ...]]  # by subset, of the videos in the records

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the records' labels."""
        return self.records.dataset.classes

    @property
    def share(self) -> float:
        """Its part of each batch, relative to the other tasks'."""
        return self.settings.get("share", 1.0)  # `data` has none: it is alone

    @property
    def facts(self) -> dict:
        """What of the records a checkpoint must remember: identity, and how to make the same from a new video."""
        stored = self.records.dataset
        return {
            "name": stored.name,
            "checksum": stored.checksum,
            "videos": len(stored.videos),
            "short_side": stored.short_side,
            "flow": stored.flow.plain() if stored.flow else None,
        }

    @cached_property
    def fingerprints(self) -> str:
        """Those of the training videos, by which eval knows them again."""
        return validate_run.fingerprints(self.records.videos[i].name for i in self.positions["train"])

    def table(self, subset: str) -> sampling.VideoTable:
        """Return the videos of a subset; UserError when it has none."""
        if not self.positions[subset]:
            hint = {"validation": "; set data.validation_fraction above 0"}.get(subset, "")
            raise UserError(
                f"eval.subset={subset}: {self.section}.split={self.settings.split} has no such videos{hint}"
            )
        return sampling.VideoTable.of(self.records.videos, self.positions[subset])


def sections(config) -> dict[str, ConfigDict]:
    """Return {section: settings} of a config's tasks: {"tasks.NAME": ...}, or {"data": ...} of the only one."""
    return {f"tasks.{name}": task for name, task in sorted(config.tasks.items())} or {"data": config.data}


def open_tasks(config) -> tuple[Task, ...]:
    """Return the tasks of a checked config, sorted by name; UserError for records or videos that do not fit."""
    tasks = tuple(_open(config, section, settings) for section, settings in sections(config).items())
    for task in tasks:
        for other in tasks:
            _check_apart(task, other)
    if "flow" in config.input.streams:
        _check_one_codec(tasks)
    return tasks


def _open(config, section: str, settings: ConfigDict) -> Task:
    if not settings.records:
        raise UserError(f"{section}.records is empty: name the folder that --mode=prepare wrote")
    records = store.Records(Path(settings.records))
    stored = records.dataset
    smallest = min((min(video.height, video.width) for video in records.videos), default=0)
    validate.check_records(config, section, settings.records, stored.streams, smallest)
    check_directions(config, section, settings.records, stored)
    wanted = tuple(settings.classes)
    if wanted and set(wanted) != set(stored.classes):
        raise UserError(
            f"{section}.classes={','.join(wanted)}: {settings.records} was prepared with {len(stored.classes)} classes "
            f"({', '.join(stored.classes[:3])}, ...); prepare records with these classes"
        )
    chosen = subsets.select(
        records.videos,
        split=settings.split,
        folds=settings.folds,
        validation_fraction=config.data.validation_fraction,
        seed=config.data.seed,
        section=section,
    )
    name = stored.name if section == "data" else section.removeprefix("tasks.")
    return Task(name, section, settings, records, chosen)


def _check_one_codec(tasks: tuple[Task, ...]) -> None:
    """Refuse tasks whose flow is stored in two ways: a batch is of one."""
    by_codec = {task.records.dataset.flow.codec: task for task in tasks}
    if len(by_codec) > 1:
        jpeg, dct = by_codec["jpeg"], by_codec["dct"]
        raise UserError(
            f"{dct.section}.records={dct.settings.records}: holds flow as DCT records, {jpeg.section}.records="
            f"{jpeg.settings.records} as JPEGs, and one run reads one of the two; prepare both with the same data.codec"
        )


def _check_apart(task: Task, other: Task) -> None:
    """Refuse two tasks of one data set where the one trains on what the other is tested on."""
    if task is other or task.facts["name"] != other.facts["name"]:
        return
    trained = {task.records.videos[i].name for i in task.positions["train"]}
    tested = (other.records.videos[i].name for subset in ("validation", "test") for i in other.positions[subset])
    shared = next((name for name in tested if name in trained), None)
    if shared is not None:
        raise UserError(
            f"{task.section}.split={task.settings.split}: trains on {shown_name(shared)}, which {other.section} is tested "
            f"on; both are of {task.facts['name']}: give them the same split or, if these are two data sets, rename the "
            "folder of one and prepare it again"
        )
