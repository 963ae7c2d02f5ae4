#!/usr/bin/env bash
# The report is tested in a real browser; Debian's and Ubuntu's own package is used where none is installed.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "browser: expected chromium on the PATH; received none; as root: apt-get install chromium" >&2
        exit 2
    fi
    as_root=(sudo)
fi
echo "browser: installing chromium for the tests of the report"
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends chromium >/dev/null
