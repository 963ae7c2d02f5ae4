#!/usr/bin/env bash
# A real Slurm from Debian's own packages, for tests of the cluster profile; does nothing where it is installed already.
set -euo pipefail
# shellcheck source=scripts/slurm-common.sh
. "$(dirname "$0")/slurm-common.sh"

[ -z "$(missing_commands)" ] && exit 0
command -v apt-get >/dev/null ||
    die "expected the commands of Slurm, munge and MariaDB; missing:$(missing_commands);" \
        "no apt-get to install them with: install the packages named in scripts/slurm-common.sh by hand"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    sudo --non-interactive true 2>/dev/null ||
        die "expected the commands of Slurm; missing:$(missing_commands); as root: apt-get install ${PACKAGES[*]}"
    as_root=(sudo --non-interactive)
fi
say "installing ${PACKAGES[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{
    "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}"
} >"$log" 2>&1 || die "apt-get failed: $(tail -n 3 "$log" | tr '\n' ' ')"
[ -z "$(missing_commands)" ] || die "still missing after apt-get install:$(missing_commands)"
