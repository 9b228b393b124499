"""Whether freed memory is kept is seen in the page faults of a process of its own."""

import subprocess
import sys

import pytest

from twostream_jax import host_memory

FAULTS = """
import resource, sys
from twostream_jax.host_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = bytearray(64 << 20)
del block
before = faults()
for _ in range(3):
    block = bytearray(64 << 20)
    del block
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_page_faults():
    def faults(kept):
        command = [sys.executable, "-c", FAULTS, kept]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # 64 MiB are 16384 pages of 4 KiB, or 32 of 2 MiB.
    assert faults("kept") < 10
    assert faults("freed") > 90


@pytest.mark.parametrize(
    ("platforms", "packages", "cpu"),
    [("", (), True), ("cpu", ("libtpu",), True), ("", ("jax_cuda12_plugin",), False), ("cuda", (), False)],
)
def test_an_accelerator_is_told_by_its_package(monkeypatch, platforms, packages, cpu):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: name if name in packages else None)
    assert host_memory.computes_on_cpu() == cpu
