#!/bin/sh
# Install what the tests need beside Python packages: a real Postfix and a real Sendmail to be
# filtered, the real libmilter, with a C compiler, to be compared with, and other people's milters
# and MTA ends to talk to: OpenDKIM, rspamd and miltertest; and a browser to read the documentation.
#
#   PYTHON   the interpreter the tests will run on (default: python3)
#
# Debian's Sendmail and Postfix exclude each other, so Sendmail's packages are not installed but
# unpacked, into .sendmail, and only the libraries it needs are installed.
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

has_sendmail() {
    [ -e .sendmail/usr/share/sendmail/cf/m4/cf.m4 ] && [ -e .sendmail/depends ] &&
        [ -x .sendmail/usr/libexec/sendmail/sendmail ]
}

has_its_libraries() {
    libraries=$(ldd .sendmail/usr/libexec/sendmail/sendmail 2>/dev/null) || return 1
    case $libraries in *"not found"*) return 1 ;; esac
}

missing=
# Some distributions keep sbin off the PATH of ordinary users.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
command -v postfix >/dev/null 2>&1 || missing="$missing postfix"
links_with_libmilter || missing="$missing gcc libc6-dev libmilter-dev"
command -v opendkim >/dev/null 2>&1 || missing="$missing opendkim"
command -v opendkim-genkey >/dev/null 2>&1 || missing="$missing opendkim-tools"
command -v miltertest >/dev/null 2>&1 || missing="$missing miltertest"
command -v systemd-socket-activate >/dev/null 2>&1 || missing="$missing systemd"
command -v rspamd >/dev/null 2>&1 || missing="$missing rspamd"
command -v strace >/dev/null 2>&1 || missing="$missing strace"
command -v m4 >/dev/null 2>&1 || missing="$missing m4"
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v chromedriver >/dev/null 2>&1 || missing="$missing chromium-driver"
command -v openssl >/dev/null 2>&1 || missing="$missing openssl"
command -v unshare >/dev/null 2>&1 || missing="$missing util-linux"
need_python
has_venv || missing="$missing python3-venv"
if [ -z "$missing" ] && has_sendmail && has_its_libraries; then
    # Postfix's master daemon starts as root only.
    [ "$(id -u)" = 0 ] || fail "the tests start mail servers of their own, which takes root." \
        "The tests that need neither a mail server nor libmilter: make unit"
    exit 0
fi

advice="On Debian and Ubuntu, as root: make test-deps"
without="The tests that need neither a mail server nor libmilter: make unit"
command -v apt-get >/dev/null 2>&1 || fail \
    "the tests need (by Debian's names):$missing; and sendmail-bin, sendmail-cf in .sendmail" \
    "$without"
[ "$(id -u)" = 0 ] || fail \
    "the tests need packages that are missing:${missing:- those of Sendmail}." "$advice" "$without"

export DEBIAN_FRONTEND=noninteractive
made_policy=
log=$(mktemp)
debs=$(mktemp -d)
clean_up() {
    rm -rf "$log" "$debs" .sendmail.new
    [ -z "$made_policy" ] || rm -f /usr/sbin/policy-rc.d
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# Package lists are fetched only when the ones that are there do not do: none yet, or out of date.
has_updated=
with_lists() {
    "$@" && return
    [ -z "$has_updated" ] || return 1
    has_updated=1
    apt-get update --quiet </dev/null >"$log" 2>&1 && "$@"
}

download_sendmail() {
    (cd "$debs" && apt-get download --quiet sendmail-bin sendmail-cf) </dev/null >"$log" 2>&1
}

unpack_sendmail() {
    rm -rf .sendmail .sendmail.new
    for deb in "$debs"/*.deb; do
        dpkg -x "$deb" .sendmail.new || return 1
    done
    # This copy is for root alone and gives nobody the rights of another group. The move comes last,
    # so that a .sendmail that is there is a whole one.
    chmod -R ug-s .sendmail.new &&
        dpkg-deb --field "$debs"/sendmail-bin_*.deb Depends >.sendmail.new/depends &&
        mv .sendmail.new .sendmail
}

if ! has_sendmail; then
    say "unpacking Sendmail into .sendmail"
    with_lists download_sendmail || {
        cat "$log" >&2
        fail "apt-get could not download sendmail-bin and sendmail-cf." "$without"
    }
    unpack_sendmail || fail "sendmail-bin and sendmail-cf could not be unpacked into .sendmail."
fi
if ! has_its_libraries; then
    # "libdb5.3, libssl3 (>= 3.0.0), ..." without the versions, and of the packages the libraries.
    missing="$missing $(tr ',' '\n' <.sendmail/depends | sed -n 's/^ *\(lib[^ ]*\).*/\1/p' | tr '\n' ' ')"
fi
if [ -z "$missing" ]; then exit 0; fi

say "installing$missing"
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
# The words of $missing are package names, split on purpose.
# shellcheck disable=SC2086
install() {
    apt-get install --yes --quiet --no-install-recommends --no-remove $missing </dev/null >"$log" 2>&1
}
with_lists install || {
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
has_its_libraries || fail "Sendmail is unpacked in .sendmail, but lacks a library: ldd" \
    ".sendmail/usr/libexec/sendmail/sendmail says which."
