# Shared by all rules: the checked study, the paths of its files, the resources of its jobs.
import atexit
import re
import shlex
import shutil
import sys
from pathlib import Path

from contextgraft import __version__
from contextgraft.errors import ContextgraftError
from contextgraft.workflow import (
    StudyLock,
    StudyWorkflow,
    begin_study_run,
    chart_labels,
    chart_subcategory,
)

# Only without --configfile: Snakemake would otherwise merge the two files, key by key.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


def stop(error):
    """End Snakemake with a user's mistake; of an exception it would also print lines of this file."""
    print(f"contextgraft: error: {error}", file=sys.stderr)
    sys.exit(2)


try:
    STUDY = StudyWorkflow.load(
        config,
        ", ".join(map(str, workflow.configfiles)),
        [Path(file) for file in workflow.configfiles],
    )
except ContextgraftError as error:
    stop(error)

PATHS = STUDY.paths
LOCK = StudyLock(Path(PATHS.lock))
THREADS = STUDY.settings.threads
VERSION = __version__  # a parameter of every rule: Snakemake does not notice a new version of the package


def check_study():
    """Before the first job: what a later one would fail with, all mistakes at once."""
    from contextgraft.workflow.preflight import check_before_first_job

    try:
        check_before_first_job(STUDY)
    except ContextgraftError as error:
        stop(error)


@atexit.register  # Snakemake has no hook at the end of a dry run
def name_the_check():
    """After a dry run with jobs: what a run checks before the first one, and the command that checks it."""
    if not workflow.dryrun or not workflow.dag:
        return
    files = [shlex.quote(str(file)) for file in workflow.configfiles]
    print(
        "contextgraft: not checked in a dry run: models, skills and lengths of prompts;"
        f" `contextgraft plan study {files[0] if len(files) == 1 else 'STUDY'} --check` checks them,"
        " as a run does before its first job",
        file=sys.stderr,
    )


def one_of(names):
    """Regular expression that matches exactly these names; without names it matches nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    seed=r"\d+",
    rank=r"\d+",
    target=one_of(STUDY.targets),
    kind=one_of([*STUDY.graft_kinds, "recommended"]),


def requested(rule):
    """Resources of a rule's jobs, computed from the study: more memory and time at each attempt."""

    def resource(word):
        return lambda wildcards, attempt: STUDY.resources(rule, wildcards.get("model"), attempt)[word]

    return {word: resource(word) for word in STUDY.resource_names}


def begin_run():
    """Before the first job: no other run of this study is alive, no job of a killed one; the disk has room."""
    run = getattr(getattr(workflow.scheduler, "_executor", None), "run_uuid", None)  # with Slurm
    try:
        begin_study_run(LOCK, run)
        STUDY.check_disk(shutil.disk_usage(".").free)
    except ContextgraftError as error:
        stop(error)
