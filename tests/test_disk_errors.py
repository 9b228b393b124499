"""What a library's chain of errors comes down to, and what of its threads' words is left out."""

import logging
import sys
import types

from twostream_jax.disk_errors import as_os_error, cause, leave_out_orbax, unfinished_tasks_hidden, why


def test_the_cause_is_at_the_bottom():
    bottom, wrapper = OSError(28, "No space left on device", "/a"), ValueError("many\nlines")
    wrapper.__cause__ = bottom
    top = RuntimeError("top")
    top.__context__ = wrapper
    assert cause(top, None) is bottom and cause(bottom, None) is bottom
    # What was under way before is none of its causes.
    bottom.__context__ = stop = SystemExit(0)
    assert cause(top, stop) is bottom and cause(top, None) is stop


def test_the_operating_systems_word_is_found_in_texts():
    text = "RESOURCE_EXHAUSTED: \"/a/b\": Failed to write 5 bytes: No space [os_error_code='28'] [source='x']"
    assert as_os_error(ValueError(text)).errno == 28 and why(ValueError(text)) == "No space left on device"
    assert why(PermissionError(13, "Permission denied", "/a")) == "Permission denied"
    assert as_os_error(ValueError("no number")) is None and why(ValueError("one\ntwo")) == "one"
    assert why(OSError("only a text")) == "only a text"


def test_only_orbax_is_left_out(capsys, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    leave_out_orbax()
    leave_out_orbax()
    for name in ("root", "absl"):
        logger = logging.getLogger(None if name == "root" else name)
        for path, passes in (("/x/orbax/checkpoint/a.py", False), ("/x/ours/a.py", True)):
            record = logging.LogRecord(name, logging.ERROR, path, 1, "text", (), None)
            assert bool(logger.filter(record)) == passes
        assert len(logger.filters) == len(set(logger.filters))
    for text, shown in (("Event loop is closed", False), ("another", True)):
        error = RuntimeError(text)
        fields = {"exc_type": RuntimeError, "exc_value": error, "exc_traceback": None, "err_msg": None, "object": None}
        monkeypatch.setattr(sys, "__unraisablehook__", lambda u: print(u.exc_value, file=sys.stderr))
        sys.unraisablehook(types.SimpleNamespace(**fields))
        assert (text in capsys.readouterr().err) == shown


def test_what_is_hidden_comes_back():
    hook, level = sys.unraisablehook, logging.getLogger("asyncio").level
    with unfinished_tasks_hidden():
        assert sys.unraisablehook is not hook and not logging.getLogger("asyncio").isEnabledFor(logging.ERROR)
    assert sys.unraisablehook is hook and logging.getLogger("asyncio").level == level
