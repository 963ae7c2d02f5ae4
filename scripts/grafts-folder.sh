#!/usr/bin/env bash
# grafts-folder.sh: at the root of a clone: makes the folder of the kept grafts, which DVC misses where no graft is kept.
# A script and not a line of dvc.yaml: DVC puts the study's name into a command without quoting it.
set -euo pipefail
study=$(sed -n 's/^study: *\([^ #]*\).*/\1/p' config/config.yaml)
mkdir -p -- "data/$study/grafts"
