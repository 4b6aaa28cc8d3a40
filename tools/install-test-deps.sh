#!/bin/sh
# Install what the tests need beside Python packages: a real Postfix to be filtered, the real
# libmilter, with a C compiler, to be compared with, and other people's milters and MTA ends to talk
# to: OpenDKIM, rspamd and miltertest.
#
#   PYTHON   the interpreter the tests will run on (default: python3)
#
# On Debian and its kin, as root, missing packages are installed; no service is started or enabled
# by it.  Anywhere else it says what is missing and fails.  Does nothing when all is there.
set -eu
cd "$(dirname "$0")/.."
. tools/common.sh

links_with_libmilter() {
    printf '#include <libmilter/mfapi.h>\nint main(void) { return smfi_stop(); }\n' |
        cc -x c - -o /dev/null -lmilter -lpthread >/dev/null 2>&1
}

missing=
# Some distributions keep sbin off the PATH of ordinary users.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
command -v postfix >/dev/null 2>&1 || missing="$missing postfix"
links_with_libmilter || missing="$missing gcc libc6-dev libmilter-dev"
command -v opendkim >/dev/null 2>&1 || missing="$missing opendkim"
command -v opendkim-genkey >/dev/null 2>&1 || missing="$missing opendkim-tools"
command -v miltertest >/dev/null 2>&1 || missing="$missing miltertest"
command -v rspamd >/dev/null 2>&1 || missing="$missing rspamd"
need_python
has_venv || missing="$missing python3-venv"
if [ -z "$missing" ]; then
    # Postfix's master daemon starts as root only.
    [ "$(id -u)" = 0 ] || fail "the tests start a Postfix of their own, which takes root." \
        "The tests that need neither a mail server nor libmilter: make unit"
    exit 0
fi

# The words of $missing are package names, split on purpose.
advice="On Debian and Ubuntu, as root: apt-get install$missing"
without="The tests that need neither a mail server nor libmilter: make unit"
command -v apt-get >/dev/null 2>&1 || fail "the tests need (by Debian's names):$missing" "$without"
[ "$(id -u)" = 0 ] || fail "the tests need packages that are missing." "$advice" "$without"

say "installing$missing"
export DEBIAN_FRONTEND=noninteractive
made_policy=
log=$(mktemp)
clean_up() {
    rm -f "$log"
    [ -z "$made_policy" ] || rm -f /usr/sbin/policy-rc.d
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM
# 101 means: start nothing.  A policy that is there already is the administrator's and stays.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    made_policy=1
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
fi
case $missing in
*postfix*)
    # The tests write a configuration of their own, in a folder of their own.
    echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections ;;
esac

# --no-remove: never take away a mail server that is in use on this machine.
# shellcheck disable=SC2086
install() {
    apt-get install --yes --quiet --no-install-recommends --no-remove $missing </dev/null >"$log" 2>&1
}
# Package lists are fetched only when the ones that are there do not do: none yet, or out of date.
install || { apt-get update --quiet </dev/null >"$log" 2>&1 && install; } || {
    cat "$log" >&2
    fail "apt-get could not install:$missing" "$without"
}
# Packages enable their services for the next boot; those that have come just now are not wanted.
for service in opendkim rspamd; do
    case " $missing " in
    *" $service "*) update-rc.d "$service" disable >/dev/null 2>&1 || true ;;
    esac
done
links_with_libmilter || fail "libmilter is installed, but a program cannot be linked with it."
