#!/usr/bin/env bash
# version.sh: after a run, at the root of a clone: puts what the study made under DVC and stages all that git must know of it:
# dvc.lock, the configuration, and Snakemake's record of what made each file. Then: git commit, dvc push, git push.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

"$here/grafts-folder.sh"
dvc commit --force --quiet
"$here/sync.sh"
git add --update
git add dvc.lock config
git add --force --all .snakemake/metadata # ignored, so that a developer's runs stay out of the package's own history
git status --short --untracked-files=no
