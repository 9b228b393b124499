"""Flow for worker processes, computed by the process that started them: it alone holds the accelerator.

Each worker has a connection of its own: a request goes one way, its fields come back. A worker that dies takes its
connection with it and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial as bind
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener

import numpy as np

from input_pipeline.fields import FlowFailed, StartFlow
from input_pipeline.schema import first_line


@dataclass(frozen=True)
class RemoteFlow:
    """A `StartFlow` that can be sent to a worker process; one request at a time. It raises FlowFailed."""

    address: str
    key: bytes

    def __call__(self, sources: np.ndarray, targets: np.ndarray, both: bool) -> Callable[[], tuple[np.ndarray, ...]]:
        with _whole_messages(self) as connection:
            connection.send_bytes(json.dumps({"shape": sources.shape, "both": both}).encode())
            for frames in (sources, targets):
                _send(connection, frames)
        return bind(_receive, self, (*sources.shape, 2), 2 if both else 1)


# One connection a process, which lasts as long as it.
@functools.cache
def _connected(remote: RemoteFlow) -> Connection:
    return Client(remote.address, authkey=remote.key)


@contextlib.contextmanager
def _whole_messages(remote: RemoteFlow) -> Iterator[Connection]:
    """Yield the connection; it is given up where a message breaks off, whose rest would be taken for the next one's."""
    try:
        connection = _connected(remote)
    except (EOFError, OSError) as error:
        raise FlowFailed("the process that computes is gone") from error
    try:
        yield connection
    except BaseException as error:
        connection.close()
        _connected.cache_clear()
        if isinstance(error, EOFError | OSError):
            raise FlowFailed("the process that computes is gone") from error
        raise


def _receive(remote: RemoteFlow, shape: tuple[int, ...], directions: int) -> tuple[np.ndarray, ...]:
    with _whole_messages(remote) as connection:
        failure = connection.recv_bytes().decode()
        fields = () if failure else tuple(_received(connection, shape, np.float32) for _ in range(directions))
    if failure:
        raise FlowFailed(failure)
    return fields


def _send(connection: Connection, array: np.ndarray) -> None:
    # As bytes: of an array with several axes the connection would take the first one's length for the whole's.
    connection.send_bytes(memoryview(np.ascontiguousarray(array)).cast("B"))


def _received(connection: Connection, shape: tuple[int, ...], dtype) -> np.ndarray:
    array = np.empty(shape, dtype)
    connection.recv_bytes_into(memoryview(array).cast("B"))
    return array


@contextlib.contextmanager
def serving(start_flow: StartFlow) -> Iterator[RemoteFlow]:
    """Yield what makes worker processes' requests come to `start_flow`, which several threads call at once."""
    key = os.urandom(32)
    with Listener(_address(), authkey=key, backlog=128) as listener:
        stopping = threading.Event()
        accepting = threading.Thread(target=_accept, args=(listener, start_flow, stopping), daemon=True)
        accepting.start()
        try:
            yield RemoteFlow(listener.address, key)
        finally:
            stopping.set()
            # Closing a listener does not wake who waits at it. One who asks nothing waits for no answer: there may be none.
            with contextlib.suppress(OSError):
                Client(listener.address).close()
            accepting.join(timeout=10)


def _address() -> str | None:
    """Return where to listen: on Linux a name without a file, which no path length limits and no crash leaves behind."""
    return f"\0twostream-{os.getpid()}-{os.urandom(8).hex()}" if sys.platform.startswith("linux") else None


def _accept(listener: Listener, start_flow: StartFlow, stopping: threading.Event) -> None:
    while not stopping.is_set():
        # A worker that is killed while it says who it is concerns nobody else.
        with contextlib.suppress(OSError, EOFError, AuthenticationError):
            connection = listener.accept()
            threading.Thread(target=_serve, args=(connection, start_flow), daemon=True).start()


def _serve(connection: Connection, start_flow: StartFlow) -> None:
    """Answer one worker's requests until it leaves; it is left where a request cannot even be received."""
    with connection, contextlib.suppress(OSError, EOFError, MemoryError):
        while True:
            request = json.loads(connection.recv_bytes())
            frames = [_received(connection, tuple(request["shape"]), np.uint8) for _ in range(2)]
            try:
                fields = start_flow(*frames, request["both"])()
            # Told to the worker, whose job fails by it: whatever a device may raise.
            except Exception as error:
                connection.send_bytes((first_line(error) or "?").encode())
                continue
            connection.send_bytes(b"")
            for flow in fields:
                _send(connection, flow)
