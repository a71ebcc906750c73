"""A TCP line to the API server that a test cuts, closes or silences, and counts the calls of."""

import socket
import threading
from contextlib import suppress

_LOOPBACK = "127.0.0.1"


class Line:
    """Carries connections to a port of loopback, whether or not anything listens there just now."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.calls = 0
        """How often somebody tried to connect."""
        self.closed = threading.Event()
        """While it is set, callers are hung up on."""
        self._audible = threading.Event()
        self._audible.set()
        self._listener = socket.create_server((_LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock, self._sockets = threading.Lock(), list[socket.socket]()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection; new ones are carried unless the line is closed."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for one in sockets:
            _hang_up(one)

    def go_silent(self) -> None:
        """Keep back whatever is sent, in both directions."""
        self._audible.clear()

    def deliver(self) -> None:
        """Deliver what was kept back, and go on."""
        self._audible.set()

    def end(self) -> None:
        """Stop for good."""
        self.closed.set()
        self.deliver()
        _hang_up(self._listener)
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # ended
            while True:
                near = self._listener.accept()[0]
                self.calls += 1
                self._connect(near)

    def _connect(self, near: socket.socket) -> None:
        try:
            if self.closed.is_set():
                raise ConnectionRefusedError
            far = socket.create_connection((_LOOPBACK, self._target))
        except OSError:
            near.close()
            return
        with self._lock:
            self._sockets += [near, far]
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._audible.wait()
                sink.sendall(data)
        self._audible.wait()
        _hang_up(source)
        _hang_up(sink)


def _hang_up(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
