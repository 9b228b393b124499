"""Damage as disks, transfers, editors and other people's scripts do it: bytes in, other bytes out, from a seeded draw."""

import io
import json
import zipfile

import numpy as np

# What stands where a number should: beyond int32, int64 and float64, not a number, and the wrong kinds of nothing.
ODD_NUMBERS = ("-1", "0", "99999999999999999999", "2147483648", "1e400", "-1e308", "nan", "inf", "1.5", "0x10", "٣", "")
ODD_TEXTS = ("\x00", "\ufeff", '"', ",", "../..", "/", "\t", "\r", "\u2028", "é", "𝔘", "%s", "{}", "a" * 300, " ")
ODD_VALUES = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**30,
    1.5,
    -0.0,
    1e308,
    "",
    "x",
    [],
    {},
    [None],
    [[]],
    {"": None},
    "\x00",
)


def draw(rng: np.random.Generator, choices):
    return choices[int(rng.integers(len(choices)))]


def _how_many(rng: np.random.Generator) -> int:
    # One alone is met most often, and what several leave is mostly refused at once.
    return 1 if rng.random() < 0.7 else int(rng.integers(2, 5))


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Return `data` after one to four faults of the kind that any file can suffer."""
    for _ in range(_how_many(rng)):
        data = draw(rng, BYTE_FAULTS)(data, rng)
    return data


def _place(data: bytes, rng: np.random.Generator) -> int:
    # Half of the faults hit the first kilobyte or the last, where headers and indices are.
    span = len(data) + 1
    if rng.random() < 0.5 or span < 2048:
        return int(rng.integers(span))
    return int(rng.integers(1024)) if rng.random() < 0.5 else span - 1 - int(rng.integers(1024))


def _truncated(data, rng):
    return data[: _place(data, rng)]


def _beheaded(data, rng):
    return data[_place(data, rng) :]


def _bits_flipped(data, rng):
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 40)) if changed else 0):
        changed[min(_place(data, rng), len(changed) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _swapped(data, rng):
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 20)) if changed else 0):
        a, b = (min(_place(data, rng), len(changed) - 1) for _ in range(2))
        changed[a], changed[b] = changed[b], changed[a]
    return bytes(changed)


def _garbage_inserted(data, rng):
    at = _place(data, rng)
    return data[:at] + rng.bytes(int(rng.integers(1, 600))) + data[at:]


def _overwritten(data, rng):
    """A block of zeros, of ones or of another part of the file, as a failing disk or a resumed download leaves it."""
    at, length = _place(data, rng), int(rng.integers(1, 5000))
    block = draw(rng, (bytes(length), b"\xff" * length, data[:length]))
    return data[:at] + block + data[at + len(block) :]


def _large_field(data, rng):
    """Four bytes that read as a large number: a width, a length or a count."""
    at = _place(data, rng)
    value = int(draw(rng, (60000, 65535, 2**24, 2**31 - 1, 2**32 - 1)))
    return data[:at] + value.to_bytes(4, draw(rng, ("little", "big"))) + data[at + 4 :]


BYTE_FAULTS = (_truncated, _beheaded, _bits_flipped, _swapped, _garbage_inserted, _overwritten, _large_field)


def mutate_npz(data: bytes, rng: np.random.Generator) -> bytes:
    """Return an .npz file with a fault inside, where the zip's own checksums do not see it; a third hit the zip itself."""
    if rng.random() < 0.33:
        return mutate_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    name = draw(rng, sorted(members))
    array = np.load(io.BytesIO(members[name]))
    faults = (
        lambda: mutate_bytes(members[name], rng),
        lambda: members[name].replace(b"'shape': (", b"'shape': (99999999999, ").replace(b"  ", b"", 6),
        lambda: _npy(array.astype(draw(rng, ("f8", "f2", "i8", "U8", "?", "c8", "S3")), casting="unsafe")),
        lambda: _npy(draw(rng, (array[None], array.ravel()[:1], array.ravel()[:0], array.T, array.ravel()[0]))),
        lambda: _npy(np.full_like(array, draw(rng, (-1, 10**6, 7)))),
        lambda: _npy(np.array(["a"] * 6, dtype=object), allow_pickle=True),
        lambda: b"",
    )
    if name == "meta.npy" and rng.random() < 0.7:
        document = mutate_json(str(array).encode(), rng).decode("utf-8", "replace")
        members[name] = _npy(np.array(document.replace("\x00", "")))
    elif rng.random() < 0.1:
        del members[name]
    else:
        try:
            members[name] = draw(rng, faults)()
        except ValueError:  # a name is no number
            members[name] = members[name][:-3]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as changed:
        for member, content in members.items():
            changed.writestr(member, content)
    return out.getvalue()


def _npy(array: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **{"allow_pickle": False} | options)
    return out.getvalue()


def mutate_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a text file after one to four faults of lines, words or, now and then, bytes."""
    for _ in range(_how_many(rng)):
        fault = draw(rng, (_line_fault, _line_fault, _word_fault, _word_fault, mutate_bytes, _recoded))
        data = fault(data, rng)
    return data


def _line_fault(data, rng):
    lines = data.splitlines(keepends=True) or [b""]
    at = int(rng.integers(len(lines)))
    kind = int(rng.integers(6))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(int(rng.integers(len(lines) + 1)), lines[at])
    elif kind == 2:
        rng.shuffle(lines)
    elif kind == 3:
        lines[at] = lines[at].rstrip(b"\r\n")
    elif kind == 4:
        lines[at] = lines[at] * 20_000  # beyond csv's limit of a field
    else:
        lines[at] = lines[at].upper() if rng.random() < 0.5 else b'"' + lines[at]
    return b"".join(lines)


def _word_fault(data, rng):
    text = data.decode("utf-8", "surrogateescape")
    at = int(rng.integers(len(text) + 1))
    end = at + int(rng.integers(6))
    word = draw(rng, ODD_NUMBERS) if rng.random() < 0.5 else draw(rng, ODD_TEXTS)
    return (text[:at] + word + text[end:]).encode("utf-8", "surrogateescape")


def _recoded(data, rng):
    """The file in another encoding, or with a byte that UTF-8 does not have."""
    if rng.random() < 0.5:
        at = int(rng.integers(len(data) + 1))
        return data[:at] + draw(rng, (b"\xe9", b"\xff\xfe", b"\x80", b"\xc0\xaf")) + data[at:]
    text = data.decode("utf-8", "replace")
    return text.encode(draw(rng, ("utf-16", "utf-8-sig", "cp1252")), "replace")


def mutate_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a JSON document, or lines of them, with values of the wrong kind at random depth; or a fault of its text."""
    if rng.random() < 0.25:
        return mutate_text(data, rng)
    lines = data.splitlines() if data.startswith(b'{"name"') else [data]  # quarantine.jsonl: a document a line
    at = int(rng.integers(len(lines)))
    document = json.loads(lines[at] or "null")
    for _ in range(_how_many(rng)):
        document = _value_fault(document, rng)
    lines[at] = json.dumps(document).encode()
    return b"\n".join(lines)


def _value_fault(value, rng):
    """Replace, drop or add something at a random place below `value`; the deeper, the rarer it stops early."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = draw(rng, sorted(value))
        if rng.random() < 0.12:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: _value_fault(value[key], rng)} | ({"alien": 1} if rng.random() < 0.05 else {})
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = int(rng.integers(len(value)))
        kept = value[:at] + value[at + 1 :]
        return kept if rng.random() < 0.1 else [*value[:at], _value_fault(value[at], rng), *value[at + 1 :]]
    if isinstance(value, str) and rng.random() < 0.4:
        return value + draw(rng, ODD_TEXTS)
    if rng.random() < 0.02:
        return json.loads("[" * 400 + "]" * 400)
    return draw(rng, ODD_VALUES)
