"""The benchmark's filter on python-libmilter, with its thread for each connection."""

import argparse
import os
import signal
import time

import libmilter

WAIT_S = 0.02
# A connection of its own for each thread; the MTA's side opens many at once.
BACKLOG = 4096


class Answering(libmilter.ThreadMixin, libmilter.MilterProtocol):
    """Every stage has a callback, and the MTA waits for the answer of each."""

    def __init__(self, opts=0, protos=0):
        libmilter.ThreadMixin.__init__(self)
        libmilter.MilterProtocol.__init__(self, opts, protos)

    def log(self, msg):
        pass

    def connect(self, hostname, family, ip, port, macros):
        return libmilter.CONTINUE

    def helo(self, name):
        return libmilter.CONTINUE

    def mailFrom(self, sender, macros):  # noqa: N802  (the library's names)
        return libmilter.CONTINUE

    def rcpt(self, recipient, macros):
        return libmilter.CONTINUE

    def data(self, macros):
        return libmilter.CONTINUE

    def header(self, name, value, macros):
        return libmilter.CONTINUE

    def eoh(self, macros):
        return libmilter.CONTINUE

    def body(self, chunk, macros):
        return libmilter.CONTINUE

    def eob(self, macros):
        self.addHeader(b"X-Bench", b"1")
        return libmilter.CONTINUE

    def abort(self):
        pass

    def close(self):
        pass

    def unknown(self, macros, data):
        return libmilter.CONTINUE


class Observing(Answering):
    """The same callbacks, but only the end of the message is answered."""

    @libmilter.noReply
    def connect(self, hostname, family, ip, port, macros):
        pass

    @libmilter.noReply
    def helo(self, name):
        pass

    @libmilter.noReply
    def mailFrom(self, sender, macros):  # noqa: N802
        pass

    @libmilter.noReply
    def rcpt(self, recipient, macros):
        pass

    @libmilter.noReply
    def data(self, macros):
        pass

    @libmilter.noReply
    def header(self, name, value, macros):
        pass

    @libmilter.noReply
    def eoh(self, macros):
        pass

    @libmilter.noReply
    def body(self, chunk, macros):
        pass

    @libmilter.noReply
    def unknown(self, macros, data):
        pass


class Changing(Answering):
    """Collects headers and body, and changes a header."""

    def mailFrom(self, sender, macros):  # noqa: N802
        self.headers = []
        self.chunks = bytearray()
        return libmilter.CONTINUE

    def header(self, name, value, macros):
        self.headers.append((name, value))
        return libmilter.CONTINUE

    def body(self, chunk, macros):
        self.chunks += chunk
        return libmilter.CONTINUE

    def eob(self, macros):
        self.chgHeader(b"X-Header-3", b"changed", 1)
        return libmilter.CONTINUE


class Waiting(Answering):
    """Waits at the sender, as for an answer from DNS."""

    def mailFrom(self, sender, macros):  # noqa: N802
        time.sleep(WAIT_S)
        return libmilter.CONTINUE


WORKS = {"add": Answering, "no-reply": Observing, "change": Changing, "wait": Waiting}


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="where to listen: inet:PORT@IPV4 or unix:PATH")
    parser.add_argument("work", nargs="?", choices=sorted(WORKS), default="add")
    options = parser.parse_args()
    if options.address.startswith("unix:"):
        address = options.address.removeprefix("unix:")
    else:
        port, _, host = options.address.removeprefix("inet:").partition("@")
        address = f"inet:{host}:{port}"
    flags = libmilter.SMFIF_ADDHDRS | libmilter.SMFIF_CHGHDRS
    # It speaks version 2, without the commands DATA and UNKNOWN, unless it is told otherwise.
    flags |= libmilter.SMFIF_CHGFROM
    factory = libmilter.ThreadFactory(address, WORKS[options.work], flags, listenq=BACKLOG)
    # Its accepting loop looks for an end only every three seconds.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    factory.run()


if __name__ == "__main__":
    main()
