"""A run's config.json, read back: whatever became of it, one line names the file and the key."""

import json
import random

import pytest

from configs import base
from input_pipeline.schema import UserError
from twostream_jax import cli, cli_config, validate_run


@pytest.fixture
def stored():
    return json.loads(json.dumps(base.get_config().to_dict()))


def load(folder, content):
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (folder / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return cli_config.load_stored(folder, [])


def test_what_was_stored_comes_back(tmp_path, stored):
    assert load(tmp_path, stored).to_dict() == base.get_config().to_dict()
    stored["flow"]["bound_px"], stored["optim"]["learning_rate"] = "video", 1
    config = load(tmp_path, stored)
    assert config.flow.bound_px == "video" and type(config.optim.learning_rate) is float


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("train", "steps", "many", 'train.steps is "many", must be a whole number'),
        ("train", "steps", None, "train.steps is null, must be a whole number"),
        ("train", "steps", 1.5, "train.steps is 1.5, must be a whole number"),
        ("train", "steps", True, "train.steps is true, must be a whole number"),
        ("train", "steps", 10**30, "train.steps is 1000000000000000000000000000000, must be a whole number"),
        ("train", "steps", [1], "train.steps is [1], must be a whole number"),
        ("optim", "momentum", "x", 'optim.momentum is "x", must be a number'),
        ("optim", "momentum", float("nan"), "optim.momentum is NaN, must be a number"),
        ("optim", "momentum", {"a": 1}, 'optim.momentum is {"a": 1}, must be a number'),
        ("optim", "drops", [1, "b"], 'optim.drops is [1, "b"], must be a list of whole numbers'),
        ("optim", "drops", 7, "optim.drops is 7, must be a list of whole numbers"),
        ("input", "flip", 1, "input.flip is 1, must be true or false"),
        ("input", "streams", ["rgb", 2], 'input.streams is ["rgb", 2], must be a list of texts'),
        ("input", "streams", "rgb", 'input.streams is "rgb", must be a list of texts'),
        ("flow", "bound_px", [20], "flow.bound_px is [20], must be px above 0 or 'video'"),
        ("flow", "bound_px", False, "flow.bound_px is false, must be px above 0 or 'video'"),
        ("data", "records", 5, "data.records is 5, must be a text"),
        ("data", "records", ["a" * 100], f'data.records is ["{"a" * 58}..., must be a text'),
        ("data", "stesp", 5, 'unknown key "data.stesp"'),
    ],
)
def test_a_wrong_value_is_named(tmp_path, stored, section, key, value, said):
    stored[section][key] = value
    with pytest.raises(UserError) as refused:
        load(tmp_path, stored)
    expected = (
        f"{tmp_path}/config.json: not a stored config ({said}); mend it, see configs/base.py, or train there again"
    )
    assert str(refused.value) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        (b"\xff{", "codec can't decode byte 0xff"),
        ("[" * 100_000, "recursion"),
        ("null", "it is null, must be a section of keys"),
        ('{"train": 3}', "no key data"),
        ('{"seed": 0, "extra": 1}', 'unknown key "extra"'),
        ('{"seed": 0, "data": null}', "data is null, must be a section of keys"),
        ('{"seed": 0, "data": {}}', "no key eval"),
    ],
)
def test_what_is_no_config_is_named(tmp_path, content, said):
    with pytest.raises(UserError, match=r"config.json: not a stored config \(.*\); .*train there again") as refused:
        load(tmp_path, content)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_any_value_anywhere_is_taken_or_named(tmp_path, stored):
    """Each key in turn becomes each of these; what is taken has the key's own type."""
    rng, default = random.Random(0), base.get_config()
    for section, keys in stored.items():
        for key in keys if isinstance(keys, dict) else [None]:
            value = rng.choice([None, "", "a", 0, -1, 2.5, True, [], [0], ["a"], {}, {"a": 1}, 1e400, "\0"])
            changed = json.loads(json.dumps(stored))
            if key is None:
                changed[section] = value
            else:
                changed[section][key] = value
            name = section if key is None else f"{section}.{key}"
            try:
                config = load(tmp_path, changed)
            except UserError as error:
                assert f"({name} is " in str(error)
            else:
                ours, theirs = (c[section] if key is None else c[section][key] for c in (config, default))
                assert type(ours) is type(theirs) or name == "flow.bound_px"


def test_the_command_line_says_it_too(tmp_path, stored, capsys):
    stored["train"]["steps"] = None
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(SystemExit) as stopped:
        cli.main([f"--workdir={tmp_path}"])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.count("\n") == 1 and "config.json: not a stored config (train.steps" in err


def test_keys_that_an_older_version_did_not_have_are_at_their_defaults(tmp_path, capsys):
    stored = base.get_config().to_dict()
    stored["train"]["steps"] = 7
    del stored["data"]["frames"], stored["eval"]["crops"]
    config = load(tmp_path, json.dumps(stored))
    assert (config.train.steps, config.data.frames, config.eval.crops) == (7, "", 10)
    lines = capsys.readouterr().err
    assert lines.endswith("config.json lacks data.frames, eval.crops, as of an older version; the defaults hold\n")
    # A checkpoint of that version goes on, unless a new key is set otherwise than it was.
    now = base.get_config().to_dict()
    now["train"]["steps"] = 7
    assert validate_run.check_resume(stored, now, tmp_path) == []
    now["input"]["flip"] = False
    del stored["input"]["flip"]
    with pytest.raises(UserError, match=r"input\.flip was True, is False"):
        validate_run.check_resume(stored, now, tmp_path)
