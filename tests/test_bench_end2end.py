"""bench=end2end: what the three measurements say together, and a whole run of it."""

import json

import pytest

from twostream_jax.bench import end2end
from twostream_jax.bench import run as bench_run
from twostream_jax.bench.rounds import Rounds


def rounds_of(step, input_, both, cpu=(1.0, 1.0, 2.0)):
    """Three rounds of eight steps each, in seconds; the machine was half as fast in the second."""
    names = (end2end.STEP, end2end.INPUT, end2end.BOTH)
    speeds = (1.0, 2.0, 1.1)
    wall = {name: [8 * seconds * s for s in speeds] for name, seconds in zip(names, (step, input_, both), strict=True)}
    cpu_s = {name: [seconds * s for s in speeds] for name, seconds in zip(names, cpu, strict=True)}
    facts = {end2end.STEP: {"steps": 8}, end2end.INPUT: {"batch_bytes": 10_000_000, "copy_s": 0.002}, end2end.BOTH: {}}
    return Rounds(wall, cpu_s, facts)


def test_a_store_that_keeps_up_is_not_waited_for():
    found = end2end._derived(rounds_of(step=0.05, input_=0.01, both=0.05), batch_size=32)
    assert found["wait_share"] == 0 and found["adds_up"] == pytest.approx(1) and found["of_sum"] == pytest.approx(1.2)
    # Of the median round, which is 1.1 times as long: 32 samples in .055 s.
    assert found["samples_per_second"] == pytest.approx(32 / 0.055)
    assert found["gigabytes_per_second"] == pytest.approx(0.01 / 0.055)
    assert found["gigabytes_per_second_of_copy"] == pytest.approx(5)
    # 80,000 steps of 256 samples at that rate.
    assert found["paper_hours"] == pytest.approx(80_000 * 256 / (32 / 0.055) / 3600)


def test_a_store_that_starves_the_step():
    found = end2end._derived(rounds_of(step=0.05, input_=0.08, both=0.08), batch_size=32)
    assert found["wait_share"] == pytest.approx(3 / 8) and found["adds_up"] == pytest.approx(1)
    turns = end2end._derived(rounds_of(step=0.05, input_=0.08, both=0.13, cpu=(1.0, 0.5, 1.5)), batch_size=32)
    assert turns["adds_up"] == pytest.approx(turns["of_sum"]) and turns["cpu_adds_up"] == pytest.approx(1)


@pytest.mark.slow
def test_the_whole_bench(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_run, "ROUNDS", 3)
    config.data.records = ""
    bench_run.bench(["end2end"], config, tmp_path)
    found = json.loads((tmp_path / "bench.json").read_text())["benches"]["end2end"]
    assert list(found["kinds"]) == ["JPEG records", "DCT records"]
    for own in found["kinds"].values():
        assert {len(rounds) for rounds in own["wall_s"].values()} == {3} and own["steps"] == end2end.STEPS_ON_CPU
        assert 0 <= own["wait_share"] < 1 and own["paper_hours"] > 0
        # Both cannot be much faster than their longer part.
        assert own["adds_up"] > 0.7
    # 16 samples of 3 fields of 41 px; mean, bound, size, crop, flip, label, task and weight beside.
    flow = 16 * 3 * 2 * 41 * 41
    assert found["kinds"]["JPEG records"]["batch_bytes"] == flow + 16 * (3 * 2 * 4 + 4 + 8 + 16 + 1 + 4 + 4 + 4)
    said = capsys.readouterr().out
    assert "input waited for" in said and "80,000 steps of 256" in said
