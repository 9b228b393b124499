"""Mistakes that users make: each is one line on stderr and exit status 2, before any device is looked for.

Those that need a trained run or score files are in test_mistakes_with_runs.py.
"""

import json

import pytest
from command_line import forbid_devices, refused

from configs import base

T = "--config=configs/temporal.py"
# Experiments over a CSV, class folders and the official lists; {here} is a folder of wrong files.
C, F, U = "--config={here}/csv.py", "--config={here}/folder.py", "--config={here}/ucf101.py"
G = "--config.data.split_file={here}/good.csv"

# Each: the arguments, and what its one line must say. {run} is a workdir with a stored config and nothing else.
MISTAKES = [
    (["--mode=trian"], "--mode=trian: choose one of demo, prepare, train"),
    (["--stesp=3"], "--stesp=3: not a flag"),
    (["spatial"], "spatial: not a flag"),
    (["--config=configs/nosuch.py"], "--config=configs/nosuch.py: no such file"),
    (["--config=README.md"], "--config=README.md: not a Python file"),
    (["--config={here}/broken.py"], "broken.py: NameError: name 'nosuch' is not defined"),
    (["--config={here}/none.py"], "none.py: get_config() returned NoneType"),
    ([T, "--config.train.stesp=3"], "train has no key 'stesp'; did you mean steps?"),
    ([T, "--config.nosuch.x=3"], "the config has no key 'nosuch'"),
    ([T, "--config.seed.x=3"], "seed has no key 'x'; it has no keys"),
    ([T, "--config.train=3"], "train is a section; set one of its keys: accumulate, batch_size"),
    ([T, "--config.train.steps"], "write --config.train.steps=VALUE"),
    ([T, "--config.train.steps=x"], "--config.train.steps=x: must be a whole number"),
    ([T, "--config.train.steps=1.5"], "must be a whole number"),
    ([T, "--config.optim.momentum=x"], "--config.optim.momentum=x: must be a number"),
    ([T, "--config.input.flip=1"], "--config.input.flip=1: write true or false"),
    ([T, "--config.optim.drops=(3)"], "not a list; write a,b"),
    ([T, "--config.optim.drops=a,b"], "optim.drops=('a', 'b'): must be steps"),
    ([T, "--config.optim.drops=5,3"], "optim.drops=(5, 3): steps must ascend"),
    ([T, "--config.train.profile=5"], "train.profile='5': give START:STOP, the first and the last step to trace"),
    ([T, "--config.train.profile=0:3"], "train.profile='0:3': give START:STOP"),
    ([T, "--config.train.profile=7:6"], "train.profile='7:6': give START:STOP"),
    ([T, "--config.train.profile=1:2:3"], "train.profile='1:2:3': give START:STOP"),
    ([T, "--config.train.profile=5:80001"], "train.profile=5:80001: the run has train.steps=80000 steps; name earlier"),
    ([T, "--config.data.kind=movies"], "data.kind='movies': choose one of ucf101"),
    ([T, "--config.data.codec=png"], "data.codec='png': choose one of jpeg, dct"),
    ([T, "--config.data.dct_planes=65"], "data.dct_planes=65: must be 1 to 64, the coefficients of a block"),
    ([T, "--config.data.dct_planes=0"], "data.dct_planes=0: must be 1 to 64"),
    (
        [
            "--mode=prepare",
            T,
            "--config.data.kind=jpeg_folders",
            "--config.data.codec=dct",
            "--config.data.dct_planes=28",
        ],
        "data.dct_planes=28: data.kind=jpeg_folders takes over all coefficients of the JPEGs; set it to 64",
    ),
    ([T, "--config.flow.method=brox"], "flow.method='brox': choose one of auto, tvl1"),
    ([T, "--config.flow.bound_px=0"], "flow.bound_px=0.0: give px above 0"),
    ([T, "--config.flow.bound_px=big"], "flow.bound_px='big': give px above 0"),
    ([T, "--config.model.name=resnet"], "model.name='resnet': choose one of cnn_m"),
    ([T, "--config.model.init=zero"], "model.init='zero': choose one of he, caffe"),
    ([T, "--config.model.width=0"], "model.width=0.0: must be above 0"),
    ([T, "--config.model.dropout=1"], "model.dropout=1.0: must be a share"),
    ([T, "--config.input.streams=rgb"], "input.streams=rgb: cnn_m_temporal takes flow"),
    ([T, "--config.input.crop=300"], "input.crop=300: larger than the stored frames"),
    ([T, "--config.input.crop=32"], "input.crop is 32 px, too small"),
    ([T, "--config.input.stack=0"], "input.stack=0: must be at least 1"),
    ([T, "--config.train.dtype=half"], "train.dtype='half': choose one of float32"),
    ([T, "--config.train.batch_size=0"], "train.batch_size=0: must be at least 1"),
    ([T, "--config.seed=-1"], "seed=-1: must be at least 0"),
    ([T, "--config.eval.crops=5"], "eval.crops=5: choose one of 1, 10"),
    ([T, "--config.eval.subset=dev"], "eval.subset='dev': choose one of train"),
    ([T, "--config.data.validation_fraction=1"], "data.validation_fraction=1.0: must be"),
    ([T, "--config.data.max_bad_fraction=2"], "data.max_bad_fraction=2.0: must be"),
    ([T, "--config.data.split=0"], "data.split=0: only mode demo"),
    ([T, "--config.data.records="], "data.records is empty"),
    ([T], "data.records: records/ucf101 holds no dataset.json; run --mode=prepare"),
    (["--mode=prepare", T, "--config.data.records="], "data.records is empty"),
    (["--mode=prepare", T], "data.videos"),
    (["--mode=train"], "--mode=train needs --config=configs/X.py, or --workdir=DIR"),
    (["--mode=train", "--workdir={here}"], "holds no config.json"),
    (["--mode=eval", "--workdir={here}/none"], "holds no config.json"),
    (["--mode=eval", "--workdir={run}"], "holds no checkpoints"),
    (["--mode=eval", "--workdir={run}", "--config.eval.subset=validation"], "no such videos; set data.validation_frac"),
    (["--mode=eval", "--workdir={run}", "--config.data.split=4"], "data.split=4 is not stored"),
    (["--mode=eval", "--workdir={run}", "--config.data.classes=a,b"], "data.classes=a,b: "),
    (["--mode=eval", "--workdir={run}", "--config.input.crop=60"], "input.crop=60: larger than the stored frames"),
    (["--mode=eval", "--workdir={here}/bad"], "bad/config.json: not a stored config"),
    (["--mode=fuse"], "--mode=fuse needs --scores=a.npz,b.npz"),
    (["--mode=fuse", "--scores=a.npz", "--config.seed=1"], "mode fuse takes --scores, --train_scores and --workdir"),
    (["--mode=fuse", "--scores={here}/a.npz,{here}/b.npz"], "a.npz: no such score file"),
    (["--mode=predict"], "--mode=predict needs --video=FILE, or --camera=0"),
    (["--mode=predict", "--camera="], "--mode=predict needs --video=FILE, or --camera=0"),
    (["--mode=predict", "--video=a.avi", "--camera=0"], "--video=a.avi and --camera=0: give one of them"),
    (["--mode=predict", "--video=a.avi", "--window=-1"], "--window=-1: give the seconds that an answer is about, or 0"),
    (["--mode=predict", "--video=a.avi", "--window=nan"], "--window=nan: give the seconds"),
    (["--mode=predict", "--video=a.avi", "--window=2s"], "window"),
    (["--mode=predict", "--camera=0", "--window=0"], "--window=0: a camera has no end; give the seconds"),
    (["--mode=predict", "--video=a.avi", "--seconds=5"], "--seconds=5: is for --camera; a video is read to its end"),
    (["--mode=predict", "--camera=0", "--seconds=0"], "--seconds=0: must be above 0; leave it out to watch"),
    (["--mode=predict", "--camera=0", "--seconds=inf"], "--seconds=inf: must be above 0"),
    (
        ["--mode=predict", "--video={here}/a.mp4", "--annotate={here}/a.mp4"],
        "a.mp4: is --video itself; give another name",
    ),
    (
        ["--mode=predict", "--camera={here}/a.mp4", "--annotate={here}/a.mp4"],
        "a.mp4: is --camera itself; give another name",
    ),
    (["--mode=eval", "--annotate=a.mp4"], "--annotate: mode eval does not take it, only predict"),
    (["--mode=predict", "--video={here}/a.avi", "--runs={run}", "--window=2"], "a.avi: there is no such file"),
    (["--mode=predict", "--video={here}/a.avi", "--runs={run}"], "a.avi: there is no such file"),
    (["--mode=inspect", "--config=configs/fight.py"], "no dataset.json there, so the number of classes is unknown"),
    (["--mode=inspect", T, "--filters=a.png"], "--filters: needs a trained run"),
    (["--mode=inspect", "--workdir={run}"], "holds no checkpoints"),
    (["--config.flow.method=none"], "flow.method=none: the two-stream run needs flow"),
    (["--mode=demo", "--workdir={run}"], "is the run of one net; name another folder for both streams"),
    (["--workdir={run}", "--config.train.steps=x"], "--config.train.steps=x: must be a whole number"),
    (["--workdir={run}", "--config.data.records=no"], "data.records: no holds no dataset.json"),
    (["--num_processes=x"], "num_processes"),
    (["--num_processes=2"], "--num_processes: mode demo does not take it, only train, eval"),
    ([T, "--dry_run"], "--dry_run: mode train does not take it, only prepare"),
    (["--mode=eval", "--scores=a.npz"], "--scores: mode eval does not take it, only fuse"),
    (["--config={here}/typo.py"], "typo.py: AttributeError"),
    (["--config={here}/assert.py"], "assert.py: AssertionError: AssertionError"),
    (["--config={here}/alien.py"], "alien.py: has no key data; begin get_config() with base.get_config()"),
    (["--config={here}/extra.py"], "extra.py: has an unknown key train.stesp"),
    (["--config={here}/types.py", "--config.data.records=x"], "data.classes=(1, 2): must be words"),
    (["--mode=inspect", "--workdir={run}", "--filters=a.jpg"], "--filters=a.jpg: must be a .png"),
    (["--mode=eval", "--workdir={here}/folds"], "holds a run of each split; name one, such as"),
    (["--mode="], "--mode=: choose one of demo, prepare"),
    (["--mode=train", "--mode=fuze"], "--mode=fuze: choose one of"),
    ([T, "--config.train.batch_size=99999999999"], "train.batch_size=99999999999: must be a whole number below 2^31"),
    ([T, "--config.optim.learning_rate=1e999"], "optim.learning_rate=inf: must be a number, such as 0.01"),
    ([T, "--config.flow.bound_px=1e999"], "flow.bound_px=inf: give px above 0"),
    ([T, "--config.optim.learning_rate=-1"], "optim.learning_rate=-1.0: must be at least 0"),
    ([T, "--config.optim.drops=99999999999"], "optim.drops=(99999999999,): must be steps"),
    ([T, "--config.data.split=first"], "--config.data.split=first: must be a whole number"),
    ([T, "--config.data.allow_missing=yes"], "--config.data.allow_missing=yes: write true or false"),
    (["--config={here}/wrong_type.py"], "wrong_type.py: TypeError"),
    (
        ["--config={here}/changed_type.py", "--config.data.records=x"],
        "train.steps='many': must be a whole number below",
    ),
    (["--config={here}"], "--config={here}: no such file"),
    (["--config={here}/binary.py"], "binary.py: "),
    ([T, "--config.data.records={here}/empty"], "data.records: {here}/empty holds no dataset.json"),
    ([T, "--config.data.records={here}/file"], "data.records: {here}/file is a file; name the folder that"),
    (["--mode=eval", "--workdir={here}/file"], "--workdir={here}/file: holds no config.json"),
    (["--mode=eval", "--workdir={here}/not_json"], "not_json/config.json: not a stored config"),
    (["--mode=eval", "--workdir={here}/wrong_value"], 'train.batch_size is "many", must be a whole number'),
    (["--mode=eval", "--workdir={here}/wrong_list"], "data.classes is [1, null], must be a list of texts"),
    (["--mode=eval", "--workdir={run}", "--config.data.records={here}/empty"], "{here}/empty holds no dataset.json"),
    (
        ["--mode=eval", "--workdir={run}", "--config.eval.subset=tests"],
        "eval.subset='tests': choose one of train, valid",
    ),
    (["--mode=inspect", "--workdir={here}"], "--workdir={here}: holds no config.json"),
    (["--mode=inspect", "--workdir={run}", "--filters={here}/no/a.png"], "must be a .png in a folder that exists"),
    (["--mode=fuse", "--scores={here}/file"], "fusion wants two score files or more"),
    (["--mode=fuse", "--scores={here}/file,{here}/file"], "{here}/file: not a score file (File is not a zip file)"),
    (["--mode=fuse", "--scores={here}/empty,{here}/file"], "{here}/empty: no such score file"),
    (["--mode=predict", "--video={here}", "--runs={run}"], "--video={here}: is a folder; give one file"),
    (["--mode=predict", "--video={here}/file", "--runs={here}"], "--workdir={here}: holds no config.json"),
    (["--mode=predict", "--video={here}/file", "--runs={run}"], "{run}: holds no checkpoints; train there first"),
    (["--mode=predict", "--video={here}/file"], "there is no run under runs/"),
    (["--mode=prepare", C, "--config.data.split_file="], "data.split_file is empty"),
    (
        ["--mode=prepare", C, "--config.data.split_file={here}/none.csv"],
        "data.split_file={here}/none.csv cannot be read",
    ),
    (["--mode=prepare", C, "--config.data.split_file={here}/header.csv"], "header.csv lists no videos"),
    (["--mode=prepare", C, "--config.data.split_file={here}/void.csv"], "void.csv has no column 'path'"),
    (["--mode=prepare", C, "--config.data.split_file={here}/other.csv"], "other.csv has no column 'path'"),
    (
        ["--mode=prepare", C, "--config.data.split_file={here}/capitals.csv"],
        "capitals.csv: 1 of 1 listed videos are absent",
    ),
    (
        ["--mode=prepare", C, "--config.data.split_file={here}/semicolons.csv"],
        "semicolons.csv: 1 of 1 listed videos are absent",
    ),
    (["--mode=prepare", C, "--config.data.split_file={here}/utf16.csv"], "utf16.csv cannot be read"),
    (["--mode=prepare", C, "--config.data.split_file={here}/no_split.csv"], "no_split.csv has no column 'split'"),
    (
        ["--mode=prepare", C, "--config.data.split_file={here}/twice.csv"],
        "twice.csv lines 2 and 3 both list a/1.avi: keep one",
    ),
    (
        ["--mode=prepare", C, "--config.data.split_file={here}/overlap.csv"],
        "overlap.csv lines 2 and 3 both list a/1.avi: keep one",
    ),
    (["--mode=prepare", C, "--config.data.split_file={here}/training.csv"], "training.csv line 2: split 'training'"),
    (
        ["--mode=prepare", C, "--config.data.split_file={here}/no_label.csv"],
        "no_label.csv line 3: the column 'label' is",
    ),
    (["--mode=prepare", C, "--config.data.split_file={here}/outside.csv"], "outside.csv line 2: ../x.avi lies outside"),
    (["--mode=prepare", C, "--config.data.split_file={here}/good.csv"], "2 of 2 listed videos are absent"),
    (["--mode=prepare", C, G, "--config.data.group_column=actor"], "data.group_column='actor' is no column of"),
    (["--mode=prepare", C, G, "--config.data.classes=wave,jump"], "data.classes: 'jump' is none of the 2 classes"),
    (["--mode=prepare", C, G, "--config.data.videos={here}/nowhere"], "data.videos={here}/nowhere is not a folder"),
    (["--mode=prepare", C, G, "--config.data.videos={here}/file"], "data.videos={here}/file is not a folder"),
    (["--mode=prepare", F, "--config.data.videos={here}/empty"], "data.videos={here}/empty holds no <class>/<video>"),
    (["--mode=prepare", F, "--config.data.videos={here}/flat"], "data.videos={here}/flat holds no <class>/<video>"),
    (["--mode=prepare", F, "--config.data.videos={here}/three"], "data.videos={here}/three holds test/ and val/"),
    (["--mode=prepare", F, "--config.data.videos={here}/unreadable"], "none of 2 videos can be read"),
    (
        ["--mode=prepare", F, "--config.data.videos={here}/unreadable", "--config.flow.method=lk"],
        "flow.method='lk': choose",
    ),
    (["--mode=prepare", U, "--config.data.splits={here}/empty"], "{here}/empty/classInd.txt"),
    (["--mode=prepare", U, "--config.data.splits={here}/file"], "data.splits={here}/file is not a folder"),
    (
        ["--mode=prepare", U, "--config.data.splits={here}/swapped"],
        "trainlist01.txt has none, the official ones the other",
    ),
    (
        ["--mode=prepare", U, "--config.data.splits={here}/from_zero"],
        "trainlist01.txt line 1: label 0 where classInd.txt has 1",
    ),
    (
        ["--mode=prepare", U, "--config.data.splits={here}/both"],
        "v_Biking_g01_c01 is also in the training list of split 1",
    ),
    (["--mode=prepare", U, "--config.data.splits={here}/official"], "2 of 2 listed videos are absent"),
    (
        ["--mode=prepare", U, "--config.data.kind=hmdb51", "--config.data.splits={here}/official"],
        "<class>_test_split1.txt",
    ),
    (
        ["--mode=prepare", U, "--config.data.kind=hmdb51", "--config.data.splits={here}/flags"],
        "flag 1 is train and 2 is test",
    ),
]

BASE = "from configs import base\n\ndef get_config():\n    config = base.get_config()\n"
CONFIGS = {
    "broken": "x = nosuch\n",
    "none": "def get_config():\n    return None\n",
    "typo": BASE + "    config.train.stesp = 3\n    return config\n",
    "assert": "assert False\n",
    "alien": "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({'a': 1})\n",
    "extra": BASE + "    config.unlock()\n    config.train.stesp = 3\n    return config\n",
    "types": BASE + "    config.data.classes = (1, 2)\n    return config\n",
    "wrong_type": BASE + "    config.train.steps = 'many'\n    return config\n",
    "changed_type": BASE + "    with config.ignore_type():\n        config.train.steps = 'many'\n    return config\n",
    "csv": BASE + "    config.data.kind, config.data.records = 'csv', 'records'\n    return config\n",
    "folder": BASE + "    config.data.kind, config.data.records = 'folder', 'records'\n    return config\n",
    "ucf101": BASE
    + "    config.data.kind, config.data.records, config.data.videos = 'ucf101', 'records', '.'\n    return config\n",
}
CSVS = {
    "good": "path,label,split,group\na/1.avi,wave,train,g1\na/2.avi,bend,test,g2\n",
    "void": "",
    "header": "path,label,split\n",
    "other": "file,class,subset\na/1.avi,wave,train\n",
    "capitals": "Path,Label,Split\na/1.avi,wave,train\n",
    "semicolons": "path;label;split\na/1.avi;wave;train\n",
    "no_split": "path,label\na/1.avi,wave\n",
    "twice": "path,label,split\na/1.avi,wave,train\na/1.avi,wave,train\n",
    "overlap": "path,label,split\na/1.avi,wave,train\na/1.avi,wave,test\n",
    "training": "path,label,split\na/1.avi,wave,training\n",
    "no_label": "path,label,split\na/1.avi,wave,train\na/2.avi,,test\n",
    "outside": "path,label,split\n../x.avi,wave,train\n",
}
TRAIN, TEST = "Biking/v_Biking_g08_c01.avi 1\n", "Biking/v_Biking_g01_c01.avi\n"
# Folder -> (training list, test list) of UCF-101.
LISTS = {
    "official": (TRAIN, TEST),
    "swapped": (TEST, TRAIN),
    "from_zero": (TRAIN.replace(" 1", " 0"), TEST),
    "both": (TRAIN + TEST.replace("\n", " 1\n"), TEST),
}
WHOLE = base.get_config().to_dict()
STORED = {
    "bad": '{"train": 3}',
    "not_json": "config",
    "wrong_value": json.dumps(WHOLE | {"train": WHOLE["train"] | {"batch_size": "many"}}),
    "wrong_list": json.dumps(WHOLE | {"data": WHOLE["data"] | {"classes": [1, None]}}),
}


def write_wrong_files(here) -> None:
    """Write every wrong file of the table into the folder `here`."""
    files = {f"{name}.py": text for name, text in CONFIGS.items()}
    files |= {f"{name}.csv": text for name, text in CSVS.items()}
    files |= {f"{name}/config.json": text for name, text in STORED.items()}
    for name, texts in LISTS.items():
        files |= {f"{name}/{list_}01.txt": t for list_, t in zip(("trainlist", "testlist"), texts, strict=True)}
        files[f"{name}/classInd.txt"] = "1 Biking\n"
    files["flags/wave_test_split1.txt"] = "A_wave_f_0.avi 2 \nB_wave_f_0.avi 2 \nC_wave_f_0.avi 1 \n"
    files |= {f"three/{subset}/wave/1.avi": "" for subset in ("train", "test", "val")}
    files |= {
        "file": "no video, no records",
        "flat/1.avi": "",
        "unreadable/wave/1.avi": "x",
        "unreadable/bend/2.avi": "x",
    }
    for name, text in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    (here / "utf16.csv").write_bytes(CSVS["good"].encode("utf-16"))
    (here / "binary.py").write_bytes(b"\x00\xff\xfe")
    (here / "empty").mkdir()
    (here / "folds" / "split1" / "spatial").mkdir(parents=True)


@pytest.mark.parametrize(("arguments", "line"), MISTAKES, ids=[" ".join(a) or "none" for a, _ in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(arguments, line, capsys, tmp_path, config, monkeypatch):
    here, run = tmp_path / "here", tmp_path / "run"
    here.mkdir()
    write_wrong_files(here)
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config.to_dict()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("")
    forbid_devices(monkeypatch)
    *filled, line = (text.replace("{run}", str(run)).replace("{here}", str(here)) for text in (*arguments, line))
    refused(capsys, filled, line)
    assert not list(tmp_path.glob("runs/*/checkpoints"))


def test_there_are_sixty_and_none_twice():
    assert len({tuple(arguments) for arguments, _ in MISTAKES}) == len(MISTAKES) >= 60
