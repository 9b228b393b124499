import concurrent.futures
import hashlib
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from test_dct import smooth_flow

from input_pipeline import dct, dct_record, dct_store
from input_pipeline.dataset_file import RecordFile
from input_pipeline.schema import UserError

# name: fields, height, width in px
VIDEOS = {"a/long": (7, 48, 67), "b": (2, 40, 41), "c": (3, 9, 100)}
BOUND = 20.0
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def make_records(name):
    """A video's records, and its coefficients [n, 2, 64, nby, nbx]; some need high planes."""
    count, height, width = VIDEOS[name]
    records, every = [], []
    for i in range(count):
        flow = smooth_flow(height, width, seed=i + 10 * len(name)) + np.float32([6, 0])
        coefficients = dct.code_field(flow, BOUND)
        mean = dct.mean_of_coded(coefficients, dct.OWN_CODING, BOUND, (height, width))
        records.append(dct_record.serialise_field(name, i, coefficients, dct.OWN_CODING, mean, (height, width)))
        every.append(coefficients)
    return records, np.stack(every)


@pytest.fixture(scope="module")
def made():
    return {name: make_records(name) for name in VIDEOS}


def write(path, made):
    """Two files, the second of one video; return the folder and each video's place."""
    records = {name: records for name, (records, _) in made.items()}
    plan = {"flow-0": ["a/long", "b"], "flow-1": ["c"]}
    files, places = [], {}
    path.mkdir(exist_ok=True)
    for number, (file, names) in enumerate(plan.items()):
        content = [record for name in names for record in records[name]]
        files.append(RecordFile(file, len(content), dct_store.write_file(path / file, content)))
        places |= {name: (number, content.index(records[name][0])) for name in names}
    return dct_store.DctFolder(path, files), places


@pytest.fixture
def stored(tmp_path, made):
    return write(tmp_path / "flow", made)


def window_of(coefficients, planes, corner, shape):
    """Windows int8 [n, 2, P, *shape] of coefficients, zero beyond the field: cut from a padded copy."""
    both = dct.split_planes(coefficients)[:, :, list(planes)]
    padded = np.pad(both, ((0, 0),) * 3 + ((0, shape[0]), (0, shape[1])))
    return padded[..., corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]]


@pytest.mark.parametrize("planes", [tuple(range(128)), (0, 1, 8, 64), (9,), (127,)])
def test_windows_are_the_coefficients_cut(stored, made, planes):
    folder, places = stored
    rng = np.random.default_rng(0)
    for name, (_, coefficients) in made.items():
        count, down, across = len(coefficients), *coefficients.shape[-2:]
        for _ in range(8):
            indices = rng.integers(count, size=5)
            corner = int(rng.integers(down)), int(rng.integers(across))
            shape = tuple(rng.integers(1, 9, 2).tolist())
            out = np.zeros((5, 2, len(planes), *shape), np.int8)
            stack = folder.read_stack(places[name], name, indices, planes, corner, out)
            np.testing.assert_array_equal(out, window_of(coefficients[indices], planes, corner, shape))
            assert stack.size == VIDEOS[name][1:] and stack.coding == dct.OWN_CODING
            wanted = [dct.mean_of_coded(coefficients[i], dct.OWN_CODING, BOUND, stack.size) for i in indices]
            np.testing.assert_array_equal(stack.means, wanted)


def test_planes_are_those_that_some_record_holds(stored, made):
    folder, _ = stored
    used = {int(p) for _, c in made.values() for p in np.flatnonzero(dct.split_planes(c).any((0, 1, 3, 4)))}
    assert folder.planes == tuple(sorted(used))
    assert 64 in used and len(used) < 128


def test_planes_of_few_coefficients_count_too(tmp_path):
    coefficients = np.zeros((2, 64, 20, 32), np.int16)
    coefficients[0, 3] = 1
    coefficients[1, 9, 4, 5] = 300
    record = dct_record.serialise_field("v", 0, coefficients, dct.OWN_CODING, np.zeros(2), (160, 256))
    file = RecordFile("f", 1, dct_store.write_file(tmp_path / "f", [record]))
    # Position 9 needs its low byte, 44, and its high one, 1.
    assert dct_store.DctFolder(tmp_path, [file]).planes == (3, 9, 64 + 9)


def test_a_still_field_has_no_planes_at_all(tmp_path):
    still = np.zeros((2, 64, 2, 3), np.int16)
    record = dct_record.serialise_field("v", 0, still, dct.OWN_CODING, np.zeros(2), (16, 24))
    file = RecordFile("f", 1, dct_store.write_file(tmp_path / "f", [record]))
    folder = dct_store.DctFolder(tmp_path, [file])
    assert folder.planes == ()
    out = np.zeros((1, 2, 1, 2, 3), np.int8)
    folder.read_stack((0, 0), "v", [0], (0,), (0, 0), out)
    assert not out.any() and not folder.field((0, 0), "v", 0, BOUND)[0].any()


def test_a_field_decodes_on_the_host(stored, made):
    folder, places = stored
    px, mean = folder.field(places["b"], "b", 1, BOUND)
    assert px.shape == (40, 41, 2)
    np.testing.assert_array_equal(mean, dct.mean_of_coded(made["b"][1][1], dct.OWN_CODING, BOUND, (40, 41)))
    wanted = dct.decode_field(made["b"][1][1], dct.OWN_CODING, BOUND)[:, :40, :41]
    np.testing.assert_array_equal(px, wanted.transpose(1, 2, 0))
    # Half a step of at most 8 levels in each of 64 coefficients, were all at their worst together, is 5 px.
    assert np.abs(px - (smooth_flow(40, 41, seed=11) + np.float32([6, 0]))).max() < 1.0


def test_records_come_back_as_they_were_written(stored, made):
    folder, places = stored
    for name, (records, _) in made.items():
        assert folder.raw(places[name], name, len(records)) == records


def test_a_stack_is_one_read(stored, monkeypatch):
    folder, places = stored
    out = np.zeros((5, 2, 1, 2, 2), np.int8)
    folder.read_stack(places["a/long"], "a/long", [0] * 5, (0,), (0, 0), out)
    reads, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: reads.append(size) or pread(fd, size, at))
    folder.read_stack(places["a/long"], "a/long", [5, 4, 3, 2, 2], (0,), (0, 0), out)
    assert len(reads) == 1 and reads[0] == sum(map(len, folder.raw(places["a/long"], "a/long", 6)[2:]))


def test_threads_share_one_folder(stored, made):
    folder, places = stored
    folder = pickle.loads(pickle.dumps(folder))
    planes = tuple(range(70))

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(30):
            name = sorted(made)[rng.integers(3)]
            indices, corner = rng.integers(len(made[name][0]), size=4), (int(rng.integers(2)), int(rng.integers(5)))
            out = np.zeros((4, 2, 70, 3, 4), np.int8)
            folder.read_stack(places[name], name, indices, planes, corner, out)
            np.testing.assert_array_equal(out, window_of(made[name][1][indices], planes, corner, (3, 4)))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(12)))


def read_everything(path, files, places):
    folder = dct_store.DctFolder(path, files)
    return [folder.raw(places[name], name, VIDEOS[name][0]) for name in places], folder.planes


def test_any_changed_byte_is_named(stored):
    folder, places = stored
    file = folder.path / "flow-0"
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    # The first and last bytes hold all that is no record's.
    picked = {*range(120), *range(len(content) - 130, len(content)), *rng.integers(len(content), size=250).tolist()}
    for place in picked:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        with pytest.raises(UserError) as error:
            read_everything(folder.path, folder.files, places)
        assert str(error.value).startswith(f"{file}") and "--verify" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_damaged_record_is_named_and_its_neighbours_are_read(stored, made):
    folder, places = stored
    file = folder.path / "flow-0"
    content = bytearray(file.read_bytes())
    content[content.index(made["a/long"][0][2]) + 150] ^= 4
    file.write_bytes(content)
    out = np.zeros((2, 2, 1, 2, 2), np.int8)
    folder.read_stack(places["a/long"], "a/long", [0, 1], (0,), (0, 0), out)
    with pytest.raises(UserError) as error:
        folder.read_stack(places["a/long"], "a/long", [1, 2], (0,), (0, 0), out)
    size = len(made["a/long"][0][2])
    assert str(error.value) == (
        f"{file}, a/long, record 2: damaged: its {size} bytes do not fit their checksum; run --mode=prepare --verify"
    )


@pytest.mark.parametrize("kept", [0, 10, 60, -1, -500])
def test_a_file_cut_short_is_named(stored, kept):
    folder, places = stored
    file = folder.path / "flow-1"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(
        UserError, match=r"flow-1: (ends too early|is not a whole file of 3 records); it is damaged, run"
    ):
        folder.raw(places["c"], "c", 1)


def test_a_file_cut_short_under_a_reader_is_named(stored):
    folder, places = stored
    folder.raw(places["c"], "c", 3)
    os.truncate(folder.path / "flow-1", 100)
    with pytest.raises(UserError, match=r"flow-1: ends too early; it is damaged, run --mode=prepare --verify$"):
        folder.raw(places["c"], "c", 3)


def test_a_disk_that_fails_is_named(stored, monkeypatch):
    folder, places = stored
    folder.raw(places["c"], "c", 3)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(
        UserError, match=r"flow-1: cannot be read \(.*Input/output error\); run --mode=prepare --verify$"
    ):
        folder.raw(places["c"], "c", 3)


def test_a_missing_file_is_named(stored):
    folder, places = stored
    (folder.path / "flow-1").unlink()
    with pytest.raises(
        UserError, match=r"flow-1: no such file, but dataset\.json lists it; run --mode=prepare --verify$"
    ):
        folder.raw(places["c"], "c", 1)


def test_a_file_of_another_count_is_named(stored):
    folder, places = stored
    other = dct_store.DctFolder(folder.path, [folder.files[0], RecordFile("flow-1", 4, "")])
    with pytest.raises(UserError, match=r"flow-1: is not a whole file of 4 records; it is damaged"):
        other.raw(places["c"], "c", 1)


def test_records_of_others_are_named(stored):
    folder, places = stored
    with pytest.raises(
        UserError, match=r"flow-0, b, record 0: found record 0 of another video; dataset\.json is of other"
    ):
        folder.raw(places["a/long"], "b", 1)
    with pytest.raises(UserError, match=r"flow-0, a/long, record 0: found record 1; dataset\.json is of other files"):
        folder.raw((0, 1), "a/long", 1)


def test_fields_of_two_sizes_or_codings_in_a_video_are_named(tmp_path):
    plain = np.ones((2, 64, 2, 2), np.int16)
    other = dct.Coding((3.0,) * 64, 128.0)
    kinds = [(dct.OWN_CODING, (16, 16)), (dct.OWN_CODING, (16, 15)), (other, (16, 16))]
    records = [
        dct_record.serialise_field("v", i, plain, coding, np.zeros(2), size) for i, (coding, size) in enumerate(kinds)
    ]
    file = RecordFile("f", 3, dct_store.write_file(tmp_path / "f", records))
    folder, out = dct_store.DctFolder(tmp_path, [file]), np.zeros((2, 2, 1, 2, 2), np.int8)
    for pair in ([0, 1], [0, 2]):
        with pytest.raises(
            UserError, match=rf"f, v, record {pair[1]}: is of another size or coding than record 0; run"
        ):
            folder.read_stack((0, 0), "v", pair, (0,), (0, 0), out)
    assert folder.read_stack((0, 0), "v", [2], (0,), (0, 0), out[:1]).coding == other


def test_indices_outside_the_file_are_refused(stored):
    folder, places = stored
    with pytest.raises(IndexError, match=r"^c: records 0 to 3 from 0 on, of 3$"):
        folder.raw(places["c"], "c", 4)
    with pytest.raises(IndexError, match=r"^c: records -1 to 1 from 0 on, of 3$"):
        folder.read_stack(places["c"], "c", [1, -1], (0,), (0, 0), np.zeros((2, 2, 1, 2, 2), np.int8))


def test_the_same_records_give_the_same_file(tmp_path, made):
    records = make_records("b")[0]
    sums = [dct_store.write_file(tmp_path / name, records) for name in ("one", "two")]
    assert sums[0] == sums[1] == hashlib.sha256((tmp_path / "one").read_bytes()).hexdigest()
    assert records == made["b"][0]


def test_a_file_of_another_checksum_never_appears(tmp_path, made):
    records = made["b"][0]
    wanted = dct_store.write_file(tmp_path / "f", records)
    assert dct_store.write_file(tmp_path / "again", records, wanted) == wanted
    with pytest.raises(ValueError, match=rf"^its SHA-256 would be \w{{12}}\.\.\. instead of {wanted[:12]}\.\.\.$"):
        dct_store.write_file(tmp_path / "other", records[:1], wanted)
    assert {path.name for path in tmp_path.iterdir()} == {"f", "again"}


def test_a_damaged_record_is_not_written(tmp_path, made):
    for bad in (b"", made["b"][0][0][:-1]):
        with pytest.raises(ValueError, match=r"^damaged: its \d+ bytes do not fit their checksum$"):
            dct_store.write_file(tmp_path / "f", [made["b"][0][1], bad])
        assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path, made):
    file = tmp_path / "f"
    dct_store.write_file(file, made["b"][0])
    before = file.read_bytes()

    def fill_the_disk():
        yield made["c"][0][0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        dct_store.write_file(file, fill_the_disk())
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path, made):
    file = tmp_path / "f"
    dct_store.write_file(file, made["b"][0])
    before = file.read_bytes()
    program = """
import os, pathlib, signal, sys
from input_pipeline import dct_store

def records():
    record = pathlib.Path(sys.argv[2]).read_bytes()
    yield from [record] * 50
    os.kill(os.getpid(), signal.SIGKILL)

dct_store.write_file(pathlib.Path(sys.argv[1]), records())
"""
    (tmp_path / "record").write_bytes(made["c"][0][0])
    killed = subprocess.run([sys.executable, "-c", program, file, tmp_path / "record"], cwd=REPOSITORY, check=False)
    assert killed.returncode == -9 and file.read_bytes() == before
    assert (tmp_path / "f.tmp").exists()
    # The next run writes over what the killed one left.
    dct_store.write_file(file, made["c"][0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "record"]
