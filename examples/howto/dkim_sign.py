"""Sign outgoing mail with DKIM.

    pip install aiomilter dkimpy
    python examples/howto/dkim_sign.py KEY.pem SELECTOR DOMAIN [ADDRESS]

Mail of users that have logged in, and of this host's networks, is signed if the address in From is
of the domain. The key is RSA, as `openssl genrsa 2048` makes it.
"""

import sys
from functools import partial
from pathlib import Path

import dkim  # type: ignore[import-untyped]  # dkimpy has no types

from aiomilter import Config, Message, Milter, Status, parse_addresses, run

OUR_NETWORKS = ("127.0.0.0/8", "::1/128", "10.0.0.0/8")
SIGNED = b"from to cc subject date message-id mime-version content-type".split()


class DkimSigner(Milter):
    def __init__(self, key: bytes, selector: str, domain: str) -> None:
        self.key, self.selector, self.domain = key, selector.encode(), domain

    # A plain `def` runs in a thread: RSA takes some milliseconds, and longer for a long message.
    def on_message(self, message: Message) -> Status:
        if "{auth_authen}" in message.macros or message.client.is_in(*OUR_NETWORKS):
            senders = [
                address.domain.lower()
                for header in message.headers.get_all("From")
                for address in parse_addresses(header.value)
            ]
            if senders == [self.domain]:
                # `edited` also has what was changed above; here that is nothing.
                name, value = self.sign(message.as_bytes(edited=True))
                message.headers.prepend(name, value)
        return Status.ACCEPT

    def sign(self, message: bytes) -> tuple[str, str]:
        """Return the header, as name and value."""
        line = dkim.sign(  # pyright: ignore[reportUnknownMemberType]
            message,
            self.selector,
            self.domain.encode(),
            self.key,
            include_headers=SIGNED,
            canonicalize=(b"relaxed", b"relaxed"),
        )
        name, _, value = line.decode("ascii").strip().replace("\r\n", "\n").partition(":")
        return name, value.lstrip()


def main() -> None:
    """Serve."""
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    key, selector, domain = Path(sys.argv[1]).read_bytes(), sys.argv[2], sys.argv[3].lower()
    milter = partial(DkimSigner, key, selector, domain)
    # Mail that could not be signed had better wait: unsigned, it may end up in a spam folder.
    run(milter, *(sys.argv[4:] or ["inet:9900"]), config=Config(on_error="tempfail"))


if __name__ == "__main__":
    main()
