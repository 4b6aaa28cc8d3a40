"""rspamd with two rules and without a network: as a milter, or asked over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from tests.integration.peers.programs import find_program, folder, running

__all__ = ["running_rspamd"]

Worker = Literal["milter", "http"]

_START_S = 50.0
"""It takes two seconds of computing to start, on an idle machine."""

_CONFIG = """\
options {{
  pidfile = "{folder}/pid"; tempdir = "{folder}"; hs_cache_dir = "{folder}";
  history_file = "{folder}/history"; rrd_file = ""; control_socket = "{folder}/control.sock";
  url_tld = "{folder}/suffixes"; disable_hyperscan = true;
  filters = ""; task_timeout = 5s; local_addrs = "127.0.0.0/8";
  dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "console"; level = "info"; }}
metric {{
  name = "default";
  actions {{ reject = 150; add_header = 60; greylist = 40; }}
  symbol {{ name = "PEER_SPAM"; score = 200; }}
  symbol {{ name = "PEER_HEADERS"; score = 1; }}
}}
lua = "{folder}/rules.lua";
"""
_WORKERS: dict[Worker, str] = {
    "milter": """\
worker "rspamd_proxy" {{
  bind_socket = "{folder}/rspamd.sock mode=0600"; milter = yes; timeout = 5s; count = 1;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
""",
    "http": """\
worker "normal" {{
  bind_socket = "{folder}/rspamd.sock mode=0600"; bind_socket = "127.0.0.1:{port}"; count = 1;
}}
""",
}
_RULES = """\
rspamd_config:register_symbol{ name = "PEER_SPAM", type = "normal", callback = function(task)
  if task:get_header("X-Spam-Test") then task:insert_result("PEER_SPAM", 1.0) end
end }
rspamd_config:register_symbol{ name = "PEER_HEADERS", type = "postfilter", callback = function(task)
  local ip = tostring(task:get_from_ip())
  task:set_milter_reply({
    add_headers = { ["X-Rspamd-Seen"] = ip .. " " .. tostring(task:get_helo()) },
    remove_headers = { ["X-Multi"] = 2 },
  })
end }
"""


@contextlib.contextmanager
def running_rspamd(worker: Worker = "milter", port: int = 0) -> Iterator[str]:
    """Run rspamd; its address.

    Args:
        worker: What it is: a milter on a unix socket, or an HTTP server.
        port: Of the HTTP server.
    """
    program = find_program("rspamd", "rspamd")
    with folder() as path:
        config = _CONFIG + _WORKERS[worker]
        (path / "rspamd.conf").write_text(config.format(folder=path, port=port))
        # Its own list of public suffixes takes seconds to compile.
        (path / "suffixes").write_text("example\n")
        (path / "rules.lua").write_text(_RULES)
        socket = path / "rspamd.sock"
        # -i: also as root, whose folder this is.
        command = [program, "-f", "-i", "-c", str(path / "rspamd.conf")]
        with running(command, socket, patience_s=_START_S):
            yield f"unix:{socket}" if worker == "milter" else f"127.0.0.1:{port}"
