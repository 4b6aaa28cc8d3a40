# Sourced by the scripts of this folder, which run from the top of the checkout.
# shellcheck shell=sh
PYTHON=${PYTHON:-python3}

say() { printf '== %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

need_python() {
    command -v "$PYTHON" >/dev/null 2>&1 ||
        fail "$PYTHON was not found." \
            "Install Python 3.11 or newer (Debian: apt-get install python3)," \
            "or name one: make PYTHON=/path/to/python3"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$PYTHON is $("$PYTHON" --version 2>&1), older than Python 3.11." \
            "Name a newer one: make PYTHON=/path/to/python3.11"
}

# Can `python -m venv` make an environment with pip?  Debian splits that off into a package.
has_venv() { "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; }

use_uv() {
    # The interpreter is the caller's choice: uv must not fetch another one.
    UV_PYTHON_DOWNLOADS=never
    # Certificates: those of the system where it has some, since a company's proxy is known only
    # there; uv's own otherwise.  A SSL_CERT_FILE of the caller's is obeyed either way.
    if [ -z "${SSL_CERT_FILE:-}" ] && [ -n "${PIP_CERT:-}" ]; then SSL_CERT_FILE=$PIP_CERT; fi
    if [ -z "${SSL_CERT_FILE:-}" ]; then
        unset SSL_CERT_FILE
        [ ! -s /etc/ssl/certs/ca-certificates.crt ] || UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
    fi
    # Whoever told pip of a mirror means uv as well.
    if [ -z "${UV_DEFAULT_INDEX:-}" ] && [ -n "${PIP_INDEX_URL:-}" ]; then
        UV_DEFAULT_INDEX=$PIP_INDEX_URL
        export UV_DEFAULT_INDEX
    fi
    export UV_PYTHON_DOWNLOADS ${SSL_CERT_FILE:+SSL_CERT_FILE} ${UV_SYSTEM_CERTS:+UV_SYSTEM_CERTS}
}
