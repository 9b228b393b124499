"""The command line as tests call it."""

import jax

from twostream_jax import cli


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Return (exit status, stdout, stderr) of a command line."""
    status = 0
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def forbid_devices(monkeypatch, allowed=()) -> None:
    """Fail the test if a device is looked for or a computation begun, but for the jax functions that are `allowed`."""

    def touched(*_, **__):
        raise AssertionError("a device was touched")

    for name in {"devices", "local_devices", "device_put", "jit", "block_until_ready"} - set(allowed):
        monkeypatch.setattr(jax, name, touched)


def refused(capsys, arguments: list[str], line: str) -> None:
    """Assert that a command line ends with status 2 and one line on stderr, which holds `line`; warnings may precede it."""
    status, out, err = run(capsys, *arguments)
    assert status == 2, (out, err)
    *warnings, last = err.splitlines()
    assert last.startswith("error: ") and line in last, err
    assert err.endswith("\n") and all(text.startswith(("warning: ", "newest run: ")) for text in warnings), err
    assert len(last) < 1000
