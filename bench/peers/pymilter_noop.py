"""The benchmark's filter on pymilter, the binding of libmilter.

It listens where libmilter does, so both forms of addresses are passed on as they are.
"""

import argparse
import time

import Milter
import milter

WAIT_S = 0.02


class Answering(Milter.Base):
    """Every stage has a callback, and the MTA waits for the answer of each."""

    def connect(self, hostname, family, hostaddr):
        return Milter.CONTINUE

    def hello(self, hostname):
        return Milter.CONTINUE

    def envfrom(self, sender, *params):
        return Milter.CONTINUE

    def envrcpt(self, recipient, *params):
        return Milter.CONTINUE

    def data(self):
        return Milter.CONTINUE

    def header(self, name, value):
        return Milter.CONTINUE

    def eoh(self):
        return Milter.CONTINUE

    def body(self, chunk):
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Bench", "1")
        return Milter.CONTINUE

    def abort(self):
        return Milter.CONTINUE

    def close(self):
        return Milter.CONTINUE

    def unknown(self, command):
        return Milter.CONTINUE


class Observing(Answering):
    """The same callbacks, but only the end of the message is answered."""

    @Milter.noreply
    def connect(self, hostname, family, hostaddr):
        return Milter.CONTINUE

    @Milter.noreply
    def hello(self, hostname):
        return Milter.CONTINUE

    @Milter.noreply
    def envfrom(self, sender, *params):
        return Milter.CONTINUE

    @Milter.noreply
    def envrcpt(self, recipient, *params):
        return Milter.CONTINUE

    @Milter.noreply
    def data(self):
        return Milter.CONTINUE

    @Milter.noreply
    def header(self, name, value):
        return Milter.CONTINUE

    @Milter.noreply
    def eoh(self):
        return Milter.CONTINUE

    @Milter.noreply
    def body(self, chunk):
        return Milter.CONTINUE

    @Milter.noreply
    def unknown(self, command):
        return Milter.CONTINUE


class Changing(Answering):
    """Collects headers and body, and changes a header."""

    def envfrom(self, sender, *params):
        self.headers = []
        self.chunks = bytearray()
        return Milter.CONTINUE

    def header(self, name, value):
        self.headers.append((name, value))
        return Milter.CONTINUE

    def body(self, chunk):
        self.chunks += chunk
        return Milter.CONTINUE

    def eom(self):
        self.chgheader("X-Header-3", 1, "changed")
        return Milter.CONTINUE


class Waiting(Answering):
    """Waits at the sender, as for an answer from DNS."""

    def envfrom(self, sender, *params):
        time.sleep(WAIT_S)
        return Milter.CONTINUE


WORKS = {"add": Answering, "no-reply": Observing, "change": Changing, "wait": Waiting}


def main() -> None:
    """Serve until SIGTERM, which libmilter catches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("work", nargs="?", choices=sorted(WORKS), default="add")
    options = parser.parse_args()
    Milter.factory = WORKS[options.work]
    Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS)
    milter.setbacklog(4096)
    Milter.runmilter("bench", options.address)


if __name__ == "__main__":
    main()
