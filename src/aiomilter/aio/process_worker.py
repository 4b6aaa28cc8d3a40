"""What runs in a process of a `ProcessPool`: a program of its own, started by the path of its file.

Rules of this file:

- It imports next to nothing, and not this library: a process is there within some hundredths of a
  second, and what a function needs comes with the function.
- It ends with the program that has started it, however that ends and whatever it is at: the kernel
  sends the signal, since a thread could not run while, say, a regular expression goes astray. What
  functions have started is in its process group, and ends with it.
- A process that a function forks off has no part in the calls: whatever it does, no other
  call is answered by it, and it does not hide the end of this one.

A call comes as a frame: eight bytes of length, then the pickled function and its arguments. The
answers are frames whose first byte says what they are: ``b`` the function begins, ``r`` its pickled
result, ``e`` the pickled exception.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import select
import signal
import sys
from types import ModuleType
from typing import Any

__all__ = ["MAIN_COPY", "main", "serve_calls"]

MAIN_COPY = "__aiomilter_main__"
"""Under which name a process has the program's main module. Not that of `multiprocessing`, which
takes it for the process's own as soon as anybody imports it."""

_HEAD_BYTES = 8
_PIECE_BYTES = 1 << 20

# This is a program that is started for each process: seconds of its start are seconds of mail, and
# so it does without `socket`, `struct`, `logging` and this library.


def main(arguments: list[str]) -> None:
    """Serve calls until the other end hangs up.

    Args:
        arguments: The numbers of two descriptors: of the socket for calls, and of the pipe that the
            program holds the other end of as long as it lives.
    """
    calls, lifeline = map(int, arguments)
    for descriptor in (calls, lifeline):
        os.set_inheritable(descriptor, False)
    # Control-C is for the program, which then stops in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # So is this one, which service managers send to all processes of a service. It is handled and
    # not ignored, as programs that functions start would go on ignoring it.
    signal.signal(signal.SIGTERM, _leave_to_program)
    os.register_at_fork(
        before=lambda: _mask(signal.SIG_BLOCK),
        after_in_parent=lambda: _mask(signal.SIG_UNBLOCK),
        after_in_child=lambda: _begin_fork(calls),
    )
    _end_with_parent(lifeline)
    try:
        serve_calls(calls)
    except OSError:
        # The other end has hung up: there is nothing left to do, and nobody to tell.
        pass


def _leave_to_program(number: int, frame: object) -> None:
    """Take a signal that is meant for the program."""


def _begin_fork(calls: int) -> None:
    """Part a process that a function has forked off from the calls."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, calls, inheritable=False)
    os.close(nothing)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _mask(signal.SIG_UNBLOCK)


def _mask(how: int) -> None:
    """Keep SIGTERM back, so that a forked process does not take it as this one does; or let it."""
    signal.pthread_sigmask(how, (signal.SIGTERM,))


def serve_calls(calls: int) -> None:
    """Serve the calls that come through a descriptor, until its other end hangs up.

    Raises:
        OSError: It has done so in the middle of something.
    """
    try:
        greeting = _read_frame(calls)
        path, main_name, main_path = pickle.loads(greeting)  # noqa: S301  (from the parent)
        sys.path[:] = path
        main_module = _MainModule(main_name, main_path)
        while True:
            _serve(calls, _read_frame(calls), main_module)
    except EOFError:
        return


def _serve(calls: int, call: bytes, main_module: _MainModule) -> None:
    try:
        function, arguments = _load(call, main_module)
        _write_frame(calls, b"b")
        answer = b"r" + pickle.dumps(function(*arguments), pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001  (it is the caller's)
        answer = b"e" + _pickle_error(error)
    _write_frame(calls, answer)


def _load(call: bytes, main_module: _MainModule) -> Any:
    try:
        return _Unpickler(call, main_module).load()
    except EOFError as error:
        # Of a module that was imported: not of the line to the other end.
        raise RuntimeError(f"the call cannot be read: {error}") from error


def _pickle_error(error: Exception) -> bytes:
    import traceback  # late: most calls need none

    places = "".join(traceback.format_exception(error))
    error.add_note(f"In a process of the pool:\n{places.rstrip()}")
    try:
        pickled = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
        # Many can be pickled and not be put together again, or are another thing then.
        if isinstance(pickle.loads(pickled), Exception):  # noqa: S301  (our own)
            return pickled
    except Exception:  # noqa: BLE001, S110  (whatever the author's exception does)
        pass
    text = "".join(traceback.format_exception_only(error)).strip()
    stand_in = RuntimeError(f"{text[:500]} (an exception that cannot be pickled)")
    stand_in.add_note(f"In a process of the pool:\n{places.rstrip()}")
    return pickle.dumps(stand_in, pickle.HIGHEST_PROTOCOL)


class _MainModule:
    """The program's main module, loaded when a function of it is called."""

    def __init__(self, name: str | None, path: str | None) -> None:
        self._name = name
        self._path = path

    def load(self) -> ModuleType:
        """Return the module, without what stands behind ``if __name__ == "__main__"``."""
        module = sys.modules.get(MAIN_COPY)
        if module is not None:
            return module
        module = ModuleType(MAIN_COPY)
        sys.modules[MAIN_COPY] = sys.modules["__main__"] = module
        try:
            vars(module).update(self._run())
        except BaseException:
            # The next call is to fail for the same reason, not for want of a name.
            del sys.modules[MAIN_COPY]
            raise
        sys.modules[MAIN_COPY] = sys.modules["__main__"] = module
        return module

    def _run(self) -> dict[str, Any]:
        """Run the module and return its names."""
        import runpy  # late: only programs in one file need it

        if self._name is not None:
            return runpy.run_module(self._name, run_name=MAIN_COPY, alter_sys=True)
        if self._path is not None:
            return runpy.run_path(self._path, run_name=MAIN_COPY)
        raise ImportError("the main module of the program has no file to load it from")


class _Unpickler(pickle.Unpickler):
    """Finds what the program's main module has."""

    def __init__(self, data: bytes, main_module: _MainModule) -> None:
        import io

        super().__init__(io.BytesIO(data))
        self._main_module = main_module

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "__main__":
            self._main_module.load()
            module_name = MAIN_COPY
        return super().find_class(module_name, global_name)


def _end_with_parent(lifeline: int) -> None:
    """Have this process killed when the other end of a pipe is closed."""
    set_signal = getattr(fcntl, "F_SETSIG", None)
    if set_signal is None:
        _watch(lifeline)
        return
    # Linux: the signal comes whatever this process is at. fcntl(2), F_SETSIG and F_SETOWN.
    fcntl.fcntl(lifeline, set_signal, signal.SIGKILL)
    # The group of this process, with all that functions have started.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        # It was closed before.
        os._exit(1)


def _watch(lifeline: int) -> None:
    """Do the same with a thread, which can only do so while Python code runs."""
    import threading

    def wait() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _read_frame(descriptor: int) -> bytes:
    size = int.from_bytes(_read(descriptor, _HEAD_BYTES))
    return _read(descriptor, size)


def _read(descriptor: int, size: int) -> bytes:
    pieces: list[bytes] = []
    while size:
        piece = os.read(descriptor, min(size, _PIECE_BYTES))
        if not piece:
            raise EOFError
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _write_frame(descriptor: int, data: bytes) -> None:
    view = memoryview(len(data).to_bytes(_HEAD_BYTES) + data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main(sys.argv[1:])
