#!/bin/sh
# Build the archives of a release into dist/ and check them.  Runs inside .venv.
#
# The same commit gives the same bytes: times are those of the commit, and the build backend is
# locked.  What is not committed is not in them, as they are built from a clean checkout.
set -eu
cd "$(dirname "$0")/.."
. tools/common.sh
use_uv

checkout=$(mktemp -d)
trap 'rm -rf "$checkout"' EXIT
trap 'exit 1' HUP INT TERM
git archive HEAD | tar -x -C "$checkout"
if [ -n "$(git status --porcelain)" ]; then
    say "note: what is not committed is not in the archives"
fi
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

build() {
    .venv/bin/uv build --quiet --python .venv/bin/python \
        --build-constraints requirements/build.txt --require-hashes --out-dir "$1" "$checkout"
}
say "building"
rm -rf dist
build dist
build "$checkout/again"
rm -f dist/.gitignore "$checkout/again/.gitignore"
for archive in dist/*; do
    cmp "$archive" "$checkout/again/$(basename "$archive")" ||
        fail "$archive is not the same when it is built again."
done
say "checking"
.venv/bin/python tools/check-dist.py dist
(cd dist && sha256sum -- *)
