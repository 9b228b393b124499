"""Train, eval, predict and demo over records of flow that was taken over without RGB."""

import pytest
from jpeg_sets import write_set

from configs import base
from input_pipeline.schema import UserError
from input_pipeline.store import Records
from twostream_jax import validate_run
from twostream_jax.drivers.demo import demo
from twostream_jax.drivers.evaluate import evaluate
from twostream_jax.drivers.predict import predict
from twostream_jax.drivers.prepare import prepare_records, verify_records
from twostream_jax.drivers.train import train


@pytest.fixture(scope="module")
def flow_only(tiny_config, tmp_path_factory):
    """A temporal net trained on records of given flow without RGB: (config, workdir)."""
    folder = tmp_path_factory.mktemp("flow_only")
    config = tiny_config.copy_and_resolve_references()
    write_set(folder / "set", Records(tiny_config.data.records), "uv", streams=("flow",))
    config.data.kind, config.data.jpeg_bound_px, config.data.videos = "jpeg_folders", 8.0, str(folder / "set")
    config.data.records, config.train.steps = str(folder / "records"), 2
    prepare_records(config)
    train(config, folder / "run")
    return config, folder / "run"


def test_flow_alone_trains_and_is_scored(flow_only):
    config, workdir = flow_only
    assert Records(config.data.records).dataset.streams == ("flow",)
    found = evaluate(config, workdir)
    assert found["center"]["videos"] == 9 and found["protocol"] == "4x10"


def test_flow_alone_is_refused_where_frames_are_needed(flow_only, tmp_path):
    config = flow_only[0].copy_and_resolve_references()
    with pytest.raises(
        UserError, match=r"holds flow only, and the two-stream run needs RGB and flow; train the one net"
    ):
        demo(config, tmp_path / "demo")
    config.model.name, config.input.streams = "cnn_m_spatial", ("rgb",)
    with pytest.raises(UserError, match=r"holds flow but no rgb; prepare records with RGB frames, or choose another"):
        train(config, tmp_path / "spatial")


def test_predict_computes_what_came_as_jpegs(flow_only, tiny_config, capsys):
    config, workdir = flow_only
    video = next((Records(tiny_config.data.records).path.parent / "videos").glob("*/*.avi"))
    config.flow.method = "dis"
    assert predict([(config, workdir)], video)["streams"]["temporal"]["top"]
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == [
        f"warning: {workdir} was trained on flow that came as JPEGs; flow.method=dis computes this video's, and "
        "another method than theirs costs accuracy"
    ]
    config = config.copy_and_resolve_references()
    config.flow.method = "none"
    with pytest.raises(UserError, match=r"flow\.method=none: the net takes flow; name the method that is nearest"):
        predict([(config, workdir)], video)


def test_the_configs_own_flow_keys_are_not_compared_with_given_flow():
    config = base.get_config()
    config.flow.method = "tvl1"
    facts = {"short_side": 240, "flow": {"method": "given", "bound_px": 15.0}}
    assert (
        len(validate_run.prepared_otherwise(config, facts | {"flow": {"method": "given", "bound_px": 20.0}}, "r")) == 2
    )
    config.data.kind, config.data.jpeg_bound_px = "jpeg_folders", 20.0
    assert validate_run.prepared_otherwise(config, facts, "r") == [
        "warning: data.jpeg_bound_px is 20.0 in the config and 15.0 in r; the records rule"
    ]
    # RGB alone: nothing of the config's sizes or flow would be prepared.
    assert validate_run.prepared_otherwise(config, {"short_side": 240, "flow": None}, "r") == []


@pytest.mark.parametrize("folder", ["rgb", "flow"])
def test_damaged_records_are_repaired_from_the_jpegs(tiny_config, tmp_path, folder, capsys):
    config = tiny_config.copy_and_resolve_references()
    write_set(tmp_path / "set", Records(tiny_config.data.records), "flow_x")
    config.data.kind, config.data.jpeg_bound_px, config.data.videos = "jpeg_folders", 8.0, str(tmp_path / "set")
    config.data.records = str(tmp_path / "records")
    prepare_records(config)
    (file,) = (tmp_path / "records" / folder).glob("*array_record*")
    whole = file.read_bytes()
    file.write_bytes(whole[:100_000] + bytes(1000) + whole[101_000:])
    verify_records(config)
    assert file.read_bytes() == whole
    assert "1 record files repaired" in capsys.readouterr().out
