"""What each run of a paper's table is: its data set, its full config, its folder, and what of it is there already."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from configs import base
from input_pipeline import dataset_file
from input_pipeline.added_classes import merged_csv
from input_pipeline.schema import UserError
from twostream_jax import validate, validate_run
from twostream_jax.drivers.evaluate import evaluated
from twostream_jax.drivers.prepare import list_config_videos, prepare_records
from twostream_jax.drivers.tables2014 import ADDED, Net, all_nets
from twostream_jax.files import write_text
from twostream_jax.scores import ScoreFile, file_name

# Steps and the steps at which the rate drops, by schedule (2014 paper, Sect. 5).
FULL = {"scratch": (80_000, (50_000, 70_000)), "fine-tuning": (20_000, (14_000,))}
# Toy size (table.scale=tiny): enough for nets of an eighth of the width to settle on a few dozen small videos.
TINY = {"scratch": (300, (240,)), "fine-tuning": (100, (70,))}
TINY_SHORT_SIDE_PX, TINY_CROP_PX = 64, 56
TINY_WIDTH, TINY_BATCH, TINY_FRAMES = 1 / 8, 32, 10
# An eighth of full6 and full7, of which nine in ten are dropped, learns next to nothing in so few steps.
TINY_TEMPORAL_DROPOUT = 0.5


@dataclass(frozen=True)
class Run:
    """One training of a net on one split with one seed."""

    net: Net
    split: int  # 0: all splits together
    seed: int  # counted from 0, on top of the config's own

    @property
    def name(self) -> str:
        """Its folder in the table's workdir, such as ucf101-1_temporal_L10_flow_mean."""
        seed = f"_seed{self.seed}" if self.seed else ""
        return f"{self.net.data}-{self.split or 'all'}_{self.net.name}{seed}"

    @property
    def start(self) -> Run | None:
        """The run that its weights come from: on all of another data set, whose test videos are nobody's here."""
        start = self.net.start
        return start and Run(start, 1 if start.data == "imagenet" else 0, self.seed)


class Places:
    """The data sets that stand in the places of the paper's: configs, and records once they are asked for."""

    def __init__(self, configs: dict[str, ConfigDict], workdir: Path):
        self._configs, self.workdir = configs, workdir
        self._datasets: dict[str, dataset_file.Dataset | UserError] = {}
        self.tiny = configs["ucf101"].table.scale == "tiny"
        self.imagenet = configs["ucf101"].table.imagenet

    def config(self, place: str) -> ConfigDict:
        """Return a copy of the config of a place, its records named; UserError where the user has named none."""
        if place == ADDED:
            return self._merged()
        if place not in self._configs:
            raise UserError(f"table.{place} is empty: name the config file of the data set in its place")
        config = self._configs[place].copy_and_resolve_references()
        self._keep_in_workdir(config, place)
        return config

    def recipe(self, net: Net) -> ConfigDict:
        """Return what a net's settings are laid over: the table's own config, on the data of the net's place."""
        own = self.config(net.data)
        if net.schedule == "own":
            return own
        config = self._configs["ucf101"].copy_and_resolve_references()
        config.data, config.flow = own.data, own.flow
        return config

    def dataset(self, place: str) -> dataset_file.Dataset:
        """Return what the records of a place hold, preparing them where they are not there."""
        if place not in self._datasets:
            try:
                self._datasets[place] = self._prepared(place)
            except UserError as error:
                self._datasets[place] = error
        found = self._datasets[place]
        if isinstance(found, UserError):
            raise found
        return found

    def prepared(self) -> dict[str, dataset_file.Dataset]:
        """Return what the records hold that have been asked for, by place."""
        return {place: found for place, found in self._datasets.items() if not isinstance(found, UserError)}

    def splits(self, place: str) -> int:
        """Return how many splits (or folds) there are."""
        return self.config(place).data.folds or len(self.dataset(place).splits)

    def _prepared(self, place: str) -> dataset_file.Dataset:
        config = self.config(place)
        given = place in self._configs and self._configs[place].data.records
        return dataset_file.read_dataset(Path(config.data.records)) if given else prepare_records(config)

    def _keep_in_workdir(self, config: ConfigDict, place: str) -> None:
        if config.data.records:
            return
        config.data.records = str(self.workdir / "records" / place)
        if config.data.kind == "synthetic" and not config.data.videos:
            config.data.videos = str(self.workdir / "videos" / place)
        # One set of records for all tables, so that they share runs.
        if config.flow.method != "none" and config.data.kind != "jpeg_folders":
            config.flow.backward = any(net.data == place and net.bidirectional for net in all_nets())
        # Stored in one way, so that two sets can be trained together.
        main = self._configs["ucf101"].data
        config.data.codec = main.codec
        if config.data.kind != "jpeg_folders":
            config.data.dct_planes = main.dct_planes
        if self.tiny:
            config.data.short_side = TINY_SHORT_SIDE_PX

    def _merged(self) -> ConfigDict:
        """Return the config of HMDB-51 with the added classes: a CSV of both lists, its records in the workdir."""
        native, other = (self.config(place) for place in ("hmdb51", "ucf101"))
        listing = self.workdir / "lists" / ADDED / "list.csv"  # the folder is the data set's name
        if not listing.is_file():
            lists = [list_config_videos(config) for config in (native, other)]
            text, root = merged_csv(*lists, folds=native.data.folds, seed=native.data.seed)
            write_text(listing.with_suffix(".root"), str(root))
            write_text(listing, text)
        native.data.kind, native.data.split_file, native.data.folds = "csv", str(listing), 0
        native.data.videos = listing.with_suffix(".root").read_text(encoding="utf-8")
        native.data.group_column, native.data.classes, native.data.records = "group", (), ""
        self._keep_in_workdir(native, ADDED)
        return native


def run_config(run: Run, places: Places) -> ConfigDict:
    """Return the full config of a run; UserError, in one line, where something that it needs is not there."""
    config, net = places.recipe(run.net), run.net
    with config.unlocked():
        config.table = base.get_config().table  # not a matter of the run
    _set(config, net.settings)
    if net.schedule != "own" or places.tiny:
        schedule = "scratch" if net.schedule == "own" else net.schedule
        config.train.steps, config.optim.drops = (TINY if places.tiny else FULL)[schedule]
    if places.tiny:
        _shrink(config)
    config.data.split, config.seed = run.split or 1, config.seed + run.seed
    if net.along or not run.split:
        config.tasks = _tasks(run, places, config)
    if run.start:
        _set(config, [("init.from", start_folder(run, places))])
    return config


def start_folder(run: Run, places: Places) -> str:
    """Return what `init.from` is to be: the run that the table trains first, or the weights that the user has named."""
    given = places.imagenet if run.start.net.data == "imagenet" else ""
    if given and not given.endswith(".py"):
        return os.path.abspath(given)  # as training stores it
    return str((places.workdir / run.start.name).absolute())


def _set(config: ConfigDict, settings) -> None:
    for key, value in settings:
        section, _, name = key.partition(".")
        config[section][name] = value


def _tasks(run: Run, places: Places, config: ConfigDict) -> dict[str, dict]:
    """Return `tasks` of a multi-task net, or of one that trains on all splits together (split 0)."""
    name = places.dataset(run.net.data).name
    validate.check_task_name(f"table: the data set {name}", name)
    tasks = {name: base.task(config.data.records, split=run.split, folds=config.data.folds)}
    if run.net.along:
        other, other_name = places.config(run.net.along), places.dataset(run.net.along).name
        if other_name == name:
            raise UserError(
                f"table.hmdb51: its data set is called {name}, as the other is; multi-task learning needs two"
            )
        validate.check_task_name(f"table: the data set {other_name}", other_name)
        # "Full (all splits combined)" (Sect. 6).
        tasks[other_name] = base.task(other.data.records, split=0, folds=other.data.folds)
    return tasks


def _shrink(config: ConfigDict) -> None:
    config.input.crop, config.model.width = TINY_CROP_PX, TINY_WIDTH
    if "flow" in config.input.streams:
        config.model.dropout = TINY_TEMPORAL_DROPOUT
    config.train.batch_size, config.train.checkpoint_every = TINY_BATCH, config.train.steps
    config.eval.frames = TINY_FRAMES


def with_starts(runs: list[Run], places: Places) -> Iterator[Run]:
    """Yield each run once, after the run that it starts from where the table trains that one."""
    seen: set[Run] = set()
    for run in runs:
        starts = [run.start] if run.start and start_folder(run, places).endswith(run.start.name) else []
        for each in (*starts, run):
            if each not in seen:
                seen.add(each)
                yield each


def evaluation(config: ConfigDict, folder: Path, dataset: dataset_file.Dataset, subset: str) -> dict | None:
    """Return a subset's evaluation of the config's last step on these records, or None where there is none.

    UserError where the run in the folder has another config.
    """
    stored = folder / "config.json"
    if not stored.is_file():
        return None
    config = config.copy_and_resolve_references()
    config.eval.subset = subset
    split, folds = division(config, dataset)
    found = evaluated(config, folder, dataset.name, split, folds, dataset.checksum)
    if found is not None:
        try:
            before = json.loads(stored.read_text(encoding="utf-8"))
        except ValueError:
            return None  # damaged: made anew
        validate_run.check_resume(before, config.to_dict(), folder)
        if not _trained_on_these(config, folder / file_name(dataset.name, split, folds, subset)):
            return None
    return found


def _trained_on_these(config: ConfigDict, scores: Path) -> bool:
    """Return whether a net was trained on the records that its tasks have now; the other tasks' may have been made anew."""
    trained = ScoreFile.read(scores).provenance["trained_on"]
    now = {name: dataset_file.read_dataset(Path(task.records)).checksum for name, task in config.tasks.items()}
    return all(trained[name]["checksum"] == checksum for name, checksum in now.items())


def division(config: ConfigDict, dataset: dataset_file.Dataset) -> tuple[int, int]:
    """Return the split and the number of folds that a run's config has for a data set."""
    section = config.tasks.get(dataset.name, config.data)
    return section.split, section.folds
