"""Complete records meet another list, other settings, or videos that have changed since."""

import dataclasses
import shutil

import pytest
from tiny_clips import SETTINGS, hashes, listed, run, tiny_list, write_clip

from input_pipeline import dataset_file, prepare, stages
from input_pipeline.dataset_file import read_dataset
from input_pipeline.folder_lock import folder_lock
from input_pipeline.schema import UserError
from input_pipeline.store import Records

NAMES = ["a/clip0", "b/clip1", "a/clip2", "b/clip3"]


@pytest.fixture
def decoded(monkeypatch):
    """The stems of the files that are decoded."""
    real, stems = stages.iterate_frames, []
    monkeypatch.setattr(stages, "iterate_frames", lambda path, side: stems.append(path.stem) or real(path, side))
    return stems


def again(videos, records, settings=SETTINGS, **changes):
    """Return (dataset, lines said)."""
    said = []
    settings = dataclasses.replace(settings, **changes)
    return prepare.prepare(videos, records, settings, lambda *progress: None, said.append), said


def test_new_videos_join_and_the_others_are_not_decoded_again(tmp_path, decoded):
    videos = tiny_list(tmp_path / "v")
    run(dataclasses.replace(videos, videos=videos.videos[:2]), tmp_path / "r")
    decoded.clear()
    _, said = again(videos, tmp_path / "r")
    assert sorted(decoded) == ["clip2", "clip3"]
    assert said[0] == "2 videos are new and 0 have changed or failed: these are prepared, the others kept"
    run(videos, tmp_path / "fresh")
    assert hashes(tmp_path / "r") == hashes(tmp_path / "fresh")


def test_a_replaced_video_is_prepared_again(tmp_path, decoded):
    videos = tiny_list(tmp_path / "v")
    run(videos, tmp_path / "r", bound_px="video", backward=True)
    write_clip(tmp_path / "v" / "b" / "clip1.avi", frames=9, seed=7)
    decoded.clear()
    _, said = again(videos, tmp_path / "r", bound_px="video", backward=True)
    assert decoded == ["clip1"] and said[0].startswith("0 videos are new and 1 have changed or failed")
    run(videos, tmp_path / "fresh", bound_px="video", backward=True)
    assert hashes(tmp_path / "r") == hashes(tmp_path / "fresh")


def test_a_mended_video_leaves_the_quarantine_even_at_the_same_size(tmp_path, decoded):
    good = write_clip(tmp_path / "good.avi").read_bytes()
    # As a copy over a broken line leaves it: the right size, and nothing in it.
    (tmp_path / "bad.avi").write_bytes(b"\0" * len(good))
    videos = listed(tmp_path, ["bad", "good"])
    assert run(videos, tmp_path / "r").counts["quarantined"] == 1
    decoded.clear()
    assert again(videos, tmp_path / "r")[1] == [] and decoded == []
    (tmp_path / "bad.avi").write_bytes(good)
    dataset, said = again(videos, tmp_path / "r")
    assert decoded == ["bad"] and dataset.counts == dataset.counts | {"videos": 2, "quarantined": 0}
    assert said[0].startswith("0 videos are new and 1 have changed or failed")
    assert (tmp_path / "r" / "quarantine.jsonl").read_text() == ""


def test_an_absent_video_that_arrives_is_prepared(tmp_path):
    write_clip(tmp_path / "here.avi")
    videos = listed(tmp_path, ["here", "late"])
    assert run(videos, tmp_path / "r").counts["quarantined"] == 1
    write_clip(tmp_path / "late.avi", seed=1)
    assert again(videos, tmp_path / "r")[0].counts["videos"] == 2


def test_an_interrupted_update_keeps_what_was_complete(tmp_path, decoded, monkeypatch):
    videos = tiny_list(tmp_path / "v")
    run(dataclasses.replace(videos, videos=videos.videos[:3]), tmp_path / "r")
    before = hashes(tmp_path / "r")
    real = prepare.shards.write_finished
    written = []

    def stop(partial, name, *rest):
        written.append(name)
        if len(written) == 2:
            raise KeyboardInterrupt
        return real(partial, name, *rest)

    monkeypatch.setattr(prepare.shards, "write_finished", stop)
    with pytest.raises(KeyboardInterrupt):
        run(videos, tmp_path / "r")
    assert {path: digest for path, digest in hashes(tmp_path / "r").items() if ".partial" not in path} == before
    decoded.clear()
    again(videos, tmp_path / "r")
    assert decoded == []  # the new one was finished first
    run(videos, tmp_path / "fresh")
    assert hashes(tmp_path / "r") == hashes(tmp_path / "fresh")


def test_other_labels_groups_and_splits_rewrite_dataset_json_alone(tmp_path, decoded):
    videos = tiny_list(tmp_path / "v", count=3)
    old = run(videos, tmp_path / "r")
    before = hashes(tmp_path / "r")
    first, second, third = videos.videos
    changed = (dataclasses.replace(first, label=1), second, dataclasses.replace(third, group="other"))
    changed = dataclasses.replace(videos, videos=changed, splits=("1", "2"))
    decoded.clear()
    dataset, said = again(changed, tmp_path / "r")
    assert said == ["2 videos have another label, group or split than before: dataset.json is written anew"]
    assert decoded == [] and dataset == read_dataset(tmp_path / "r")
    after = hashes(tmp_path / "r")
    assert {path for path in before if before[path] != after[path]} == {"dataset.json"}
    assert [(v.name, v.label, v.group) for v in dataset.videos] == [
        ("a/clip0", 1, "g0"),
        ("a/clip2", 0, "other"),
        ("b/clip1", 1, "g1"),
    ]
    assert dataset.checksum == dataset_file.checksum(dataset.files, dataset.videos) != old.checksum
    assert dataset.splits == ("1", "2")
    run(changed, tmp_path / "fresh")
    assert hashes(tmp_path / "fresh") == after


def test_a_renamed_class_counts_as_another_label(tmp_path):
    videos = tiny_list(tmp_path / "v", count=2)
    run(videos, tmp_path / "r")
    dataset, said = again(dataclasses.replace(videos, classes=("links", "right")), tmp_path / "r")
    assert said == ["1 videos have another label, group or split than before: dataset.json is written anew"]
    assert dataset.classes == ("links", "right")


def test_videos_that_left_the_list_are_refused(tmp_path):
    videos = tiny_list(tmp_path / "v", count=3)
    run(videos, tmp_path / "r")
    before = hashes(tmp_path / "r")
    fewer = dataclasses.replace(videos, videos=videos.videos[1:2])
    with pytest.raises(UserError) as error:
        run(fewer, tmp_path / "r")
    words = (
        f"data.records: {tmp_path / 'r'} holds 2 videos that are not in the list now, such as 'a/clip0', 'a/clip2'; "
    )
    assert str(error.value) == words + "list them again or choose another data.records"
    assert hashes(tmp_path / "r") == before


def test_flow_of_another_opencv_is_not_mixed(tmp_path):
    videos = tiny_list(tmp_path / "v", count=2)
    dataset = run(dataclasses.replace(videos, videos=videos.videos[:1]), tmp_path / "r")
    older = dataclasses.replace(dataset, flow=dataclasses.replace(dataset.flow, opencv_version="4.0.1"))
    (tmp_path / "r" / "dataset.json").write_text(dataset_file.format_dataset(older))
    assert again(dataclasses.replace(videos, videos=videos.videos[:1]), tmp_path / "r")[1] == []
    with pytest.raises(UserError, match=r"is by OpenCV 4\.0\.1, new videos would get that of .*headless==4\.0\.1, or"):
        run(videos, tmp_path / "r")


def test_a_damaged_record_does_not_travel_into_an_update(tmp_path):
    videos = tiny_list(tmp_path / "v", count=3)
    run(dataclasses.replace(videos, videos=videos.videos[:2]), tmp_path / "r")
    file = tmp_path / "r" / "flow" / read_dataset(tmp_path / "r").files["flow"][0].file
    content = bytearray(file.read_bytes())
    content[content.index(b"\xff\xd8\xff") + 200] ^= 255
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"flow-all\S+, [ab]/clip\d, record 0: cannot be read"):
        run(videos, tmp_path / "r")
    assert (tmp_path / "r" / "dataset.json").is_file()


def test_a_damaged_quarantine_file_is_named(tmp_path):
    videos = tiny_list(tmp_path / "v", count=1)
    run(videos, tmp_path / "r")
    (tmp_path / "r" / "quarantine.jsonl").write_text('{"name": "x"}\n')
    with pytest.raises(
        UserError, match=r"quarantine\.jsonl: cannot be read \(KeyError: 'reason'\); delete the file and run"
    ):
        run(videos, tmp_path / "r")


def test_a_folder_of_other_things_is_not_written_to(tmp_path):
    videos = tiny_list(tmp_path / "v", count=1)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"^data\.records=.*home: holds other files and no records; name a folder"):
        run(videos, tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.tex"]


def test_records_that_are_complete_can_lie_on_a_read_only_disk(tmp_path, monkeypatch):
    videos = tiny_list(tmp_path / "v", count=1)
    run(videos, tmp_path / "r")
    monkeypatch.setattr(prepare, "held_alone", None)  # which is what would write
    assert len(Records(tmp_path / "r")) == 1
    run(videos, tmp_path / "r")
    shutil.rmtree(tmp_path / "r")


def test_two_runs_in_one_folder(tmp_path):
    videos = tiny_list(tmp_path / "v", count=2)
    refused = []

    def second(done, total, text):
        try:
            run(videos, tmp_path / "r")
        except UserError as error:
            refused.append(str(error))

    prepare.prepare(videos, tmp_path / "r", SETTINGS, second)
    assert len(refused) >= 3 and all(
        "another --mode=prepare is at work there already (process " in line for line in refused
    )
    run(videos, tmp_path / "fresh")
    assert hashes(tmp_path / "r") == hashes(tmp_path / "fresh")


def test_a_video_set_aside_that_is_no_longer_listed_is_forgotten(tmp_path):
    write_clip(tmp_path / "good.avi")
    (tmp_path / "bad.avi").write_bytes(b"")
    videos = listed(tmp_path, ["bad", "good"])
    run(videos, tmp_path / "r")
    dataset, said = again(dataclasses.replace(videos, videos=videos.videos[1:]), tmp_path / "r")
    assert said == [] and (dataset.counts["videos"], dataset.counts["quarantined"]) == (1, 0)
    assert (tmp_path / "r" / "quarantine.jsonl").read_text() == ""


def test_a_video_mended_while_the_run_goes_on_is_taken_up_by_the_next(tmp_path, monkeypatch):
    good = write_clip(tmp_path / "good.avi").read_bytes()
    (tmp_path / "bad.avi").write_bytes(b"x" * 100)
    real = stages.encode_source

    def mended_meanwhile(video, settings, start_flow):
        try:
            return real(video, settings, start_flow)
        except UserError:
            video.path.write_bytes(good)
            raise

    videos = listed(tmp_path, ["bad", "good"])
    with monkeypatch.context() as patch:
        patch.setattr(stages, "encode_source", mended_meanwhile)
        assert run(videos, tmp_path / "r").counts["quarantined"] == 1
    assert again(videos, tmp_path / "r")[0].counts["videos"] == 2


def test_what_the_machine_could_not_do_is_tried_again(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_clip(tmp_path / f"{name}.avi")
    videos, real = listed(tmp_path, ["a", "b"]), stages.encode_source

    def no_memory(video, settings, start_flow):
        if video.name == "a":
            raise MemoryError
        return real(video, settings, start_flow)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "encode_source", no_memory)
        assert run(videos, tmp_path / "r").counts["quarantined"] == 1
        before = hashes(tmp_path / "r")
        _, said = again(videos, tmp_path / "r")
        assert said[-1] == "a set aside: too long for this machine's memory" and hashes(tmp_path / "r") == before
    assert again(videos, tmp_path / "r")[0].counts["videos"] == 2


def test_an_update_without_room_is_refused_and_the_records_stay_complete(tmp_path, monkeypatch):
    videos = tiny_list(tmp_path / "v", count=3)
    run(dataclasses.replace(videos, videos=videos.videos[:2]), tmp_path / "r")
    before = hashes(tmp_path / "r")
    free = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with pytest.raises(
        UserError, match=r"^data\.records=.*r: needs 1 MB to write its files anew, 1 MB are free; make room"
    ):
        run(videos, tmp_path / "r")
    after = hashes(tmp_path / "r")
    assert {path: after[path] for path in before} == before


def test_an_interrupted_run_of_other_settings_keeps_its_videos(tmp_path):
    videos = tiny_list(tmp_path / "v", count=3)

    def stop(done, total, text):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(videos, tmp_path / "r", SETTINGS, stop)
    words = "holds an interrupted run with {}; finish it as it was, choose another data.records, or delete the folder"
    for change, told in (
        ({"method": "farneback"}, "flow.method dis, now farneback"),
        ({"short_side": 40}, "data.short_side 32, now 40"),
    ):
        with pytest.raises(UserError) as error:
            run(videos, tmp_path / "r", **change)
        assert str(error.value) == f"data.records={tmp_path / 'r'}: {words.format(told)}"
    with pytest.raises(UserError, match="with the data set tiny, now other;"):
        run(dataclasses.replace(videos, name="other"), tmp_path / "r")
    _, said = again(videos, tmp_path / "r")
    assert said == ["2 of 3 videos were finished before and are kept"]


def test_nothing_to_do_leaves_the_work_of_another_command_alone(tmp_path):
    videos = tiny_list(tmp_path / "v", count=1)
    run(videos, tmp_path / "r")
    (tmp_path / "r" / ".partial").mkdir()
    with folder_lock(tmp_path / "r", "a repair"):
        run(videos, tmp_path / "r")
        assert (tmp_path / "r" / ".partial").is_dir()
    run(videos, tmp_path / "r")
    assert not (tmp_path / "r" / ".partial").exists()


def test_a_class_more_is_written_even_where_no_label_changes(tmp_path):
    videos = tiny_list(tmp_path / "v", count=2)
    run(videos, tmp_path / "r")
    dataset, _ = again(dataclasses.replace(videos, classes=("left", "right", "up")), tmp_path / "r")
    assert dataset.classes == read_dataset(tmp_path / "r").classes == ("left", "right", "up")
