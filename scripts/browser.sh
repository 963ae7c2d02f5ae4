#!/usr/bin/env bash
# The report is tested in a real browser: Debian's and Ubuntu's own package is installed where there is none. Where that
# cannot be done, the tests that need it are skipped: this script says so in one line and succeeds.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
skip() {
    echo "browser: no chromium, $*: the tests of the report in a browser are skipped"
    exit 0
}
command -v apt-get >/dev/null || skip "and no apt-get to install it with"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    sudo --non-interactive true 2>/dev/null || skip "and not root (as root: apt-get install chromium)"
    as_root=(sudo --non-interactive)
fi
echo "browser: installing chromium for the tests of the report"
"${as_root[@]}" apt-get update -qq &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium \
        >/dev/null || skip "and apt-get failed"
