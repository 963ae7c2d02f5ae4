# What the rules share: the checked configuration, the paths, and the few functions of wildcards.
# A model folder is one artifact; its contextgraft.json, written last and carrying the digest of the rest, stands for it.
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from contextgraft import __version__
from contextgraft.config import cli_arguments
from contextgraft.planning.slurm import SLURM_RESOURCES, study_requests
from contextgraft.planning.study import plan_study, study_shape
from contextgraft.config.resolved_study import donor_name, load_study
from contextgraft.errors import ContextgraftError
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS

# Only without --configfile: Snakemake would otherwise mix the two, key by key.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


try:
    STUDY = load_study(config, ", ".join(map(str, workflow.configfiles)), NEEDLE_KINDS)
    SETTINGS = STUDY.settings
    REQUESTS = study_requests(STUDY, study_shape(STUDY))
except ContextgraftError as error:
    print(f"contextgraft: error: {error}", file=sys.stderr)
    sys.exit(2)

VERSION = __version__  # a parameter of every rule: Snakemake does not see that an installed package changed
TARGETS = list(STUDY.targets)
KEPT = [target for target in TARGETS if STUDY.keeps_grafts(target)]
PASSING = [target for target in TARGETS if not STUDY.keeps_grafts(target)]
SEEDS = SETTINGS.donor_seeds
RANKS = sorted(SETTINGS.ranks)
KINDS = [*(f"r{rank}" for rank in RANKS), "theta-only"]  # of grafts

DATA = f"data/{SETTINGS.study}"
RESULTS = f"results/{SETTINGS.study}"
LOGS = f"{RESULTS}/logs"
TIMES = f"{RESULTS}/benchmarks"

MODEL = f"{DATA}/models/{{model}}/contextgraft.json"
BASE = f"{DATA}/models/base/contextgraft.json"
DONOR = f"{DATA}/models/donor-s{{seed}}/contextgraft.json"
TARGET = f"{DATA}/models/{{target}}/contextgraft.json"
ADAPTER = f"{DATA}/adapters/s{{seed}}/r{{rank}}/contextgraft.json"
GRAFT = f"{DATA}/grafts/s{{seed}}/{{target}}/{{kind}}"
PASSAGE = f"{DATA}/passing/s{{seed}}/{{target}}/{{kind}}"  # holds a graft that is deleted in the end
RECORD = f"{RESULTS}/grafts/s{{seed}}/{{target}}/{{kind}}/contextgraft.json"  # stays where the graft does not
ALIGNMENT = f"{RESULTS}/alignment/s{{seed}}/{{target}}.parquet"
VERDICT = f"{RESULTS}/verified/s{{seed}}/{{target}}.json"
SAMPLE = f"{RESULTS}/samples/{{target}}.parquet"
BASE_SAMPLES = f"{RESULTS}/samples/base.parquet"
REPORT = f"{RESULTS}/report"
PAGE = f"{REPORT}/index.html"

MODEL_MANIFESTS = expand(MODEL, model=STUDY.origins)
ADAPTER_MANIFESTS = expand(ADAPTER, seed=SEEDS, rank=RANKS)
GRAFTS = expand(f"{GRAFT}/contextgraft.json", seed=SEEDS, target=KEPT, kind=KINDS)
RECORDS = expand(RECORD, seed=SEEDS, target=TARGETS, kind=KINDS)
ALIGNMENTS = expand(ALIGNMENT, seed=SEEDS, target=TARGETS)
VERDICTS = expand(VERDICT, seed=SEEDS, target=TARGETS)
SAMPLES = [BASE_SAMPLES, *expand(SAMPLE, target=TARGETS)]


def one_of(names):
    """Pattern that matches exactly these names; none of them, nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    seed=r"\d+",
    rank=r"\d+",
    target=one_of(TARGETS),
    kind=one_of(KINDS),


def asks(job):
    """Resources of a kind of job, from the study's own numbers: more at each attempt, what a job does not need unsaid."""

    def ask(word):
        return lambda wildcards, attempt: REQUESTS.resources(job, wildcards.get("model"), attempt)[word]

    return {word: ask(word) for word in SLURM_RESOURCES}


def folder(manifest):
    """Folder that a manifest stands for."""
    return Path(manifest).parent


def refusal(target, out):
    """A fine-tune that is refused is put on record and the others go on; without base or donor nothing can."""
    return f"--refusal {out}" if target in TARGETS else ""


def source(wildcards):
    """What `contextgraft fetch` takes for a model."""
    return STUDY.origins[wildcards.model].source


def recipe(wildcards):
    """Training recipe of a model."""
    return STUDY.origins[wildcards.model].recipe


def recipe_files(wildcards):
    """Training recipe of a model and the files it names."""
    return STUDY.files(recipe(wildcards))


def launch(wildcards):
    """What starts a training of many processes; nothing where there is one."""
    nodes, processes = REQUESTS.launch(wildcards.model, SETTINGS.training.processes)
    alone = nodes * processes == 1
    return "" if alone else f"scripts/slurm-torchrun.sh {nodes} {processes} {SETTINGS.threads.train}"


def seed_option(wildcards):
    """The donors differ by their seed; a fine-tune's seed stands in its recipe."""
    seed = STUDY.origins[wildcards.model].seed
    return "" if seed is None else f"--seed {seed}"


def graft(seed, target, kind):
    """Folder of a graft. One that passes has a folder around it: Snakemake leaves a file in what it deletes."""
    names = {"seed": seed, "target": target, "kind": kind}
    return GRAFT.format(**names) if target in KEPT else f"{PASSAGE.format(**names)}/{kind}"


def watched(seed, target, kind):
    """What Snakemake watches of a graft: the manifest of one that stays, the folder around one that passes."""
    place = graft(seed, target, kind)
    return f"{place}/contextgraft.json" if target in KEPT else str(Path(place).parent)


def grafts_of(wildcards):
    """Every graft of a fine-tune, its theta-only control rows among them."""
    return [watched(seed, wildcards.target, kind) for seed in SEEDS for kind in KINDS]


def needle_format(wildcards):
    """Needle format in a fine-tune's own manner."""
    return STUDY.needle_format(wildcards.target)


def question_files(wildcards):
    """Files that say what a fine-tune is asked."""
    return STUDY.question_files(needle_format(wildcards), STUDY.targets[wildcards.target].skills)


def target_models(wildcards):
    """The fine-tune alone and every graft of it, as `contextgraft evaluate` takes them: LABEL=FOLDER."""
    target = wildcards.target
    grafts = [f"{target}-s{seed}-{kind}={graft(seed, target, kind)}" for seed in SEEDS for kind in KINDS]
    return [f"{target}={folder(TARGET.format(target=target))}", *grafts]


def base_models():
    """The base and every donor, labelled."""
    donors = [f"{donor_name(seed)}={folder(DONOR.format(seed=seed))}" for seed in SEEDS]
    return [f"base={folder(BASE)}", *donors]


def check_disk():
    """Stop where the study cannot fit on the disk, less what of it is there already."""
    made = sum(path.stat().st_size for path in Path(DATA).rglob("*") if path.is_file())
    missing = plan_study(STUDY).disk.peak - made
    free = shutil.disk_usage(".").free
    if missing > free:
        raise WorkflowError(
            f"contextgraft: error: the disk is too small; expected {missing:,} bytes free; received {free:,};"
            " keep_grafts: false needs less (contextgraft plan study says how much)"
        )
