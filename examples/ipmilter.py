"""Print where each SMTP client comes from; let all mail pass.

    python examples/ipmilter.py [ADDRESS ...]       by default inet:9900, on the loopback address

Postfix, in main.cf:

    smtpd_milters = inet:127.0.0.1:9900

Sendmail, in sendmail.mc:

    INPUT_MAIL_FILTER(`ipmilter', `S=inet:9900@127.0.0.1')dnl

On a unix socket, for Postfix, whose processes are in the group postfix and usually see nothing
outside of /var/spool/postfix (so main.cf has `smtpd_milters = unix:milter/ip.sock`):

    run(IpMilter, "unix:/var/spool/postfix/milter/ip.sock", config=Config(unix_group="postfix"))
"""

import sys

from aiomilter import Milter, SocketInfo, run

__all__ = ["IpMilter"]


class IpMilter(Milter):
    """An object is one SMTP session; of its events this class wants to see a single one."""

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        # Flushed, since into a pipe or a journal Python writes in blocks.
        print(f"connect from {client}", flush=True)


if __name__ == "__main__":
    run(IpMilter, *(sys.argv[1:] or ["inet:9900"]))
