"""mode=table: every row of a paper's table, trained, scored, fused and printed beside the paper's number."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from input_pipeline.schema import UserError, first_line
from twostream_jax.drivers.evaluate import evaluate
from twostream_jax.drivers.fuse import fuse
from twostream_jax.drivers.setup import check_values
from twostream_jax.drivers.table_plan import plan_lines
from twostream_jax.drivers.table_runs import Places, Run, division, evaluation, run_config, with_starts
from twostream_jax.drivers.tables2014 import ADDED, TABLES, Row, Table
from twostream_jax.drivers.train import train
from twostream_jax.report.paper_table import summarise, write_paper_table
from twostream_jax.scores import file_name

PAPERS_NAMES = {
    "ucf101": "UCF-101",
    "hmdb51": "HMDB-51",
    "imagenet": "ImageNet",
    ADDED: "HMDB-51 with classes added from UCF-101",
}


def table(name: str, configs: dict[str, ConfigDict], workdir: Path) -> dict[str, Any]:
    """Return {"rows": [...]} of a table of `TABLES`, training, scoring and fusing what is not there in `workdir`.

    `configs` maps the places "ucf101" and, where the user has named them, "hmdb51" and "imagenet" to configs. Leaves
    a folder for each run, `fused/`, table.md and table.json. A row that cannot be had is reported with its reason and
    the others go on; UserError at the end counts them.
    """
    if name not in TABLES:
        raise UserError(f"--table={name}: choose one of {', '.join(TABLES)}")
    for config in configs.values():
        check_values(config)
        if config.tasks:
            raise UserError(
                f"tasks={','.join(config.tasks)}: mode table sets the tasks of its rows itself; leave them out, and name "
                "the second data set's config in table.hmdb51"
            )
    if (workdir / "config.json").exists():
        raise UserError(f"--workdir={workdir}: is the run of one net; name another folder for the table")
    return _Making(TABLES[name], name, Places(configs, workdir), configs["ucf101"].table.seeds).run()


class _Making:
    """One table under way: the runs it needs, and why some of them cannot be had."""

    def __init__(self, paper: Table, name: str, places: Places, seeds: int):
        self.paper, self.name, self.places, self.seeds = paper, name, places, seeds
        self.workdir = places.workdir
        self.configs: dict[Run, ConfigDict] = {}
        self.failed: dict[Run, str] = {}
        self.scored: set[Run] = set()

    def run(self) -> dict[str, Any]:
        """Make every run, then the rows; write and print the table."""
        wanted = [run for row in self.paper.rows for run in _flat(self._runs(row))]
        runs = list(with_starts(wanted, self.places))
        self.scored = set(wanted)
        for run in runs:
            self._attempt(run, lambda run=run: self._ready(run))
        # Nothing is trained for rows that cannot be had.
        starts = {run.start for run in runs if run not in self.failed}
        runs = [run for run in runs if run in self.scored | starts]
        print("\n".join(self._plan(runs)), flush=True)
        for run in runs:
            if run not in self.failed:
                self._attempt(run, lambda run=run: self._make(run))
        rows = [self._row(row) for row in self.paper.rows]
        notes = _notes(self.places, self.seeds)
        caption = self.paper.caption
        print(write_paper_table(self.workdir, name=self.name, caption=caption, rows=rows, notes=notes))
        missing = [row for row in rows if "missing" in row]
        print(f"written to {self.workdir / 'table.md'}")
        if missing:
            raise UserError(
                f"--table={self.name}: {len(missing)} of {len(rows)} rows are missing, such as "
                f"{missing[0]['setting']!r}: {missing[0]['missing']}; see {self.workdir / 'table.md'}"
            )
        return {"rows": rows}

    def _plan(self, runs: list[Run]) -> list[str]:
        device = jax.devices()[0].device_kind
        ready = {run.name: self.configs[run] for run in runs if run not in self.failed}
        lines = plan_lines(ready, self.workdir)
        failed = [f"  {run.name}: cannot be had, {self.failed[run]}" for run in runs if run in self.failed]
        return [f"{self.paper.caption}: {len(runs)} runs on {device}", *failed, *lines]

    def _evaluated(self, run: Run, subset: str) -> dict | None:
        return evaluation(self.configs[run], self.workdir / run.name, self.places.dataset(run.net.data), subset)

    def _teaches_an_svm(self, run: Run) -> bool:
        return any(row.fusion == "svm" and run.net in row.nets for row in self.paper.rows)

    def _attempt(self, run: Run, work: Callable[[], object]) -> None:
        try:
            work()
        except (UserError, OSError) as error:
            self.failed[run] = first_line(error)
            print(f"{run.name}: {self.failed[run]}", file=sys.stderr, flush=True)

    def _runs(self, row: Row) -> list[list[list[Run]]]:
        """Return the runs of a row, [split][seed][net]; of split 1 alone where its records cannot be had."""
        splits = row.splits
        if splits > 1:
            with contextlib.suppress(UserError):
                splits = min(splits, self.places.splits(row.data))
        return [
            [[Run(net, split, seed) for net in row.nets] for seed in range(self.seeds)]
            for split in range(1, splits + 1)
        ]

    def _ready(self, run: Run) -> None:
        """Make sure of a run's config and records."""
        if run.start in self.failed:
            raise UserError(f"{run.start.name}, which it starts from: {self.failed[run.start]}")
        self.configs[run] = run_config(run, self.places)
        check_values(self.configs[run])
        self.places.dataset(run.net.data)

    def _make(self, run: Run) -> None:
        """Train and score a run, as far as that is not done; one that others only start from is not scored."""
        if run.start in self.failed:
            raise UserError(f"{run.start.name}, which it starts from: {self.failed[run.start]}")
        subsets = ("test", "train") if self._teaches_an_svm(run) else ("test",)
        missing = [s for s in subsets if run in self.scored and self._evaluated(run, s) is None]
        if missing or run not in self.scored:
            train(self.configs[run], self.workdir / run.name)
        for subset in missing:
            name = self.places.dataset(run.net.data).name
            evaluate(self._for_subset(run, subset), self.workdir / run.name, only=name)

    def _for_subset(self, run: Run, subset: str) -> ConfigDict:
        config = self.configs[run].copy_and_resolve_references()
        config.eval.subset = subset
        return config

    def _row(self, row: Row) -> dict[str, Any]:
        by_split = self._runs(row)
        runs = _flat(by_split)
        content = {"setting": row.setting, "paper": row.paper, "runs": [run.name for run in runs]}
        failed = next((self.failed[run] for run in runs if run in self.failed), "")
        if failed:
            return content | {"missing": failed}
        try:
            entries = [[self._entry(row, nets) for nets in of_split] for of_split in by_split]
        except (UserError, OSError) as error:
            return content | {"missing": first_line(error)}
        return content | summarise(entries)

    def _entry(self, row: Row, runs: list[Run]) -> dict[str, Any]:
        """Return the accuracy entry of one net, or of several nets fused, on one split with one seed."""
        if not row.fusion:
            found = self._evaluated(runs[0], "test")
            return found[found["protocol"]]
        paths = [self._scores(run, "test") for run in runs]
        train_paths = [self._scores(run, "train") for run in runs] if row.fusion == "svm" else []
        folder = self.workdir / "fused" / f"{row.fusion}_{'+'.join(run.name for run in runs)}"
        done = folder / "fuse.json"
        newest = max(path.stat().st_mtime_ns for path in (*paths, *train_paths))
        if not done.is_file() or done.stat().st_mtime_ns < newest:
            fuse(paths, train_paths, folder)
        return json.loads(done.read_text(encoding="utf-8"))[row.fusion]

    def _scores(self, run: Run, subset: str) -> Path:
        dataset = self.places.dataset(run.net.data)
        return self.workdir / run.name / file_name(dataset.name, *division(self.configs[run], dataset), subset)


def _flat(runs: list[list[list[Run]]]) -> list[Run]:
    return [run for of_split in runs for of_seed in of_split for run in of_seed]


def _notes(places: Places, seeds: int) -> list[str]:
    """Return what stands under a table: whose data and size it is, and how to have a row made again."""
    notes = []
    for place, dataset in places.prepared().items():
        classes = ", ".join(dataset.classes[:6]) + (", ..." if len(dataset.classes) > 6 else "")
        counts = f"{len(dataset.classes)} classes ({classes}), {len(dataset.videos)} videos"
        notes.append(f"In the place of {PAPERS_NAMES[place]}: {dataset.name}, {counts}.")
    if places.tiny:
        notes.append(
            "Toy size: an eighth of the width, 56 px crops, a few hundred steps, 10x10 positions, temporal dropout 0.5. "
            "Read these as signs that the rows run and differ, not as the paper's experiment."
        )
    notes.append("The paper's protocol is 25x10. Of multi-task nets, that of the row's own data set is scored.")
    if seeds > 1:
        notes.append(f"Each net was trained with {seeds} seeds.")
    notes.append("Deleting a run's folder makes just the rows that name it run again.")
    return notes
