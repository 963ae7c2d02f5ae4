#!/usr/bin/env bash
# grafts-folder.sh: at the root of a clone: makes the folders of the kept grafts and of their verdicts, which DVC misses where no graft is kept.
# A script and not a line of dvc.yaml: DVC puts the study's name into a command without quoting it.
set -euo pipefail
study=$(python -c 'import sys, yaml; print(yaml.safe_load(sys.stdin)["study"])' <config/config.yaml 2>/dev/null) || study=""
[[ $study =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || {
    echo "grafts-folder: expected a name of letters and digits under 'study' in config/config.yaml; received '$study'" >&2
    exit 2
}
mkdir -p -- "data/$study/grafts" "results/$study/verified"
