#!/bin/sh
# Make .venv: the locked development tools and an editable install of the library.
#
#   PYTHON   the interpreter (default: python3)
#
# Does nothing when .venv is what this interpreter, the lock and pyproject.toml ask for; starts from
# nothing when the interpreter is another one, and brings .venv up to date otherwise.
set -eu
cd "$(dirname "$0")/.."
. tools/common.sh

need_python
# The place is part of the base: an environment that has been moved does not work any more.
keys=$("$PYTHON" - "$PWD" pyproject.toml requirements/*.txt tools/make-env.sh <<'END'
import hashlib, pathlib, sys

base = hashlib.sha256(f"{sys.argv[1]} {sys.base_prefix} {sys.version}".encode())
content = hashlib.sha256()
for name in sys.argv[2:]:
    content.update(pathlib.Path(name).read_bytes())
print(base.hexdigest(), content.hexdigest())
END
)
stamp=.venv/.made-from
made_from=$(cat "$stamp" 2>/dev/null) || made_from=
if [ "$made_from" = "$keys" ]; then exit 0; fi

has_venv || fail "$PYTHON cannot make virtual environments: its venv or ensurepip is missing." \
    "On Debian and Ubuntu: apt-get install python3-venv"

if [ "${made_from% *}" = "${keys% *}" ]; then
    say "bringing .venv up to date"
else
    say "making .venv with $("$PYTHON" --version)"
    "$PYTHON" -m venv --clear .venv
fi
# Without a stamp, an interrupted set-up is begun again.
rm -f "$stamp"
.venv/bin/python -m pip --version >/dev/null 2>&1 ||
    fail "the new environment has no pip." "On Debian and Ubuntu: apt-get install python3-pip python3-venv"
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --require-hashes --requirement requirements/bootstrap.txt
use_uv
# uv still calls the hash check of build backends a preview; uv itself is locked.
set -- --quiet --python .venv/bin/python --build-constraints requirements/build.txt \
    --require-build-hashes --preview-features build-dependency-hashes
.venv/bin/uv pip sync "$@" --require-hashes requirements/dev.txt
.venv/bin/uv pip install "$@" --no-deps --editable .
printf '%s\n' "$keys" >"$stamp"
