"""The configuration files of the private Postfix, as text."""

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["REFUSED_RECIPIENT", "as_postfix_writes", "main_cf", "master_cf"]

REFUSED_RECIPIENT = "refused@dst.example"
"""The one recipient that Postfix itself refuses."""

_MAIN_CF = """\
compatibility_level = 3.6
config_directory = {directory}/conf
queue_directory = {directory}/spool
data_directory = {directory}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
meta_directory = /etc/postfix
shlib_directory = /usr/lib/postfix
mail_owner = postfix
setgid_group = postdrop
maillog_file = {directory}/log/maillog
maillog_file_prefixes = {directory}

# The loopback only, and no DNS at all. Addresses of both families can be claimed with XCLIENT.
inet_interfaces = loopback-only
inet_protocols = all
myhostname = mx.test.example
myorigin = mx.test.example
mynetworks = 127.0.0.0/8
smtpd_authorized_xclient_hosts = 127.0.0.1
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtp_host_lookup = native

# Every recipient goes to the sink, from any client: all are on the loopback, whatever XCLIENT
# says. Postfix does not start without a "reject" that it believes to be reachable.
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
default_database_type = hash
local_transport = {sink}
relay_transport = {sink}
default_transport = {sink}
virtual_transport = {sink}
smtpd_relay_restrictions = check_client_access static:permit, reject
smtpd_recipient_restrictions =
    check_recipient_access inline:{{{refused}=REJECT}}
    check_client_access static:permit
    reject

# Clients' headers stay byte for byte as they came: nothing missing is added, nothing is rewritten.
local_header_rewrite_clients =
smtputf8_enable = yes

# No pauses, no limits in the way of tests.
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 1000
smtpd_hard_error_limit = 1000
smtpd_junk_command_limit = 1000
smtpd_client_connection_count_limit = 0
smtp_connection_cache_on_demand = no
in_flow_delay = 0
message_size_limit = 104857600
mailbox_size_limit = 0
notify_classes =

# A milter that is gone or mute shows as a 451.
milter_protocol = 6
milter_default_action = tempfail
milter_connect_timeout = 5s
milter_command_timeout = 10s
milter_content_timeout = 10s
"""

# No service runs in a chroot: a milter's unix socket is found under the path that was given.
_MASTER_CF = """\
pickup    unix  n - n 60    1 pickup
cleanup   unix  n - n -     0 cleanup
qmgr      unix  n - n 300   1 qmgr
rewrite   unix  - - n -     - trivial-rewrite
tlsmgr    unix  - - n 1000? 1 tlsmgr
bounce    unix  - - n -     0 bounce
defer     unix  - - n -     0 bounce
trace     unix  - - n -     0 bounce
verify    unix  - - n -     1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n -     - proxymap
smtp      unix  - - n -     - smtp
showq     unix  n - n -     - showq
error     unix  - - n -     - error
retry     unix  - - n -     - error
anvil     unix  - - n -     1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""


def main_cf(directory: Path, sink_port: int, settings: Mapping[str, str]) -> str:
    """Return main.cf.

    Args:
        directory: Where the instance lives.
        sink_port: The loopback port that takes all mail.
        settings: Further lines; they win over the ones here, as Postfix takes the last.
    """
    base = _MAIN_CF.format(
        directory=directory, sink=f"smtp:[127.0.0.1]:{sink_port}", refused=REFUSED_RECIPIENT
    )
    # Postfix takes the last of two lines for a name, and complains of it in every daemon's log. A
    # line that begins with a blank goes on with the one before it.
    entries = [entry for entry in re.split(r"\n(?![ \t])", base) if _name(entry) not in settings]
    entries += [f"{name} = {value}" for name, value in settings.items()]
    return "".join(f"{entry}\n" for entry in entries)


def _name(entry: str) -> str:
    return entry.partition("=")[0].strip()


def master_cf(listeners: Mapping[int, Mapping[str, str]]) -> str:
    """Return master.cf.

    Args:
        listeners: For each SMTP port the settings that only it has.
    """
    lines: list[str] = []
    for port, options in listeners.items():
        lines.append(f"127.0.0.1:{port} inet n - n - - smtpd\n")
        # The form with braces takes values with blanks.
        lines.extend(f"  -o {{ {name} = {value} }}\n" for name, value in options.items())
    return "".join(lines) + _MASTER_CF


def as_postfix_writes(milter_address: str) -> str:
    """Return a milter's address (``inet:port@host``, ``unix:path``) as main.cf takes it."""
    family, _, place = milter_address.partition(":")
    port, at, host = place.partition("@")
    return f"{family}:{host}:{port}" if at else milter_address
