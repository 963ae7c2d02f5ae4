# What the rules share: the checked configuration, the paths, and the few functions of wildcards.
# A model folder is one artifact; its contextgraft.json, written last and carrying the digest of the rest, stands for it.
import sys
from pathlib import Path

from contextgraft import __version__
from contextgraft.config.study import donor_name, load
from contextgraft.errors import ContextgraftError

# Only without --configfile: Snakemake would otherwise mix the two, key by key.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


try:
    STUDY = load(config, ", ".join(map(str, workflow.configfiles)))
except ContextgraftError as error:
    print(f"contextgraft: error: {error}", file=sys.stderr)
    sys.exit(2)

VERSION = __version__  # a parameter of every rule: Snakemake does not see that an installed package changed
SETTINGS = STUDY.settings
TARGETS = list(STUDY.targets)
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
GRAFT = f"{DATA}/grafts/s{{seed}}/{{target}}/{{kind}}/contextgraft.json"
VERDICT = f"{RESULTS}/verified/s{{seed}}/{{target}}.json"
SAMPLE = f"{RESULTS}/samples/{{target}}.parquet"
BASE_SAMPLES = f"{RESULTS}/samples/base.parquet"
PAGE = f"{RESULTS}/report/index.html"
SUMMARY = f"{RESULTS}/report/summary.json"

MODEL_MANIFESTS = expand(MODEL, model=STUDY.origins)
ADAPTER_MANIFESTS = expand(ADAPTER, seed=SEEDS, rank=RANKS)
GRAFT_MANIFESTS = expand(GRAFT, seed=SEEDS, target=TARGETS, kind=KINDS)
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


def source(wildcards):
    """What `contextgraft fetch` takes for a model."""
    return STUDY.origins[wildcards.model].source


def recipe(wildcards):
    """Training recipe of a model."""
    return STUDY.origins[wildcards.model].recipe


def recipe_files(wildcards):
    """Training recipe of a model and the files it names."""
    return STUDY.files(recipe(wildcards))


def seed_option(wildcards):
    """The donors differ by their seed; a fine-tune's seed stands in its recipe."""
    seed = STUDY.origins[wildcards.model].seed
    return "" if seed is None else f"--seed {seed}"


def needle_format(wildcards):
    """Needle format in a fine-tune's own manner."""
    return STUDY.needle_format(wildcards.target)


def question_files(wildcards):
    """Files that say what a fine-tune is asked."""
    skill = STUDY.targets[wildcards.target].skill
    return [*STUDY.files(needle_format(wildcards)), *([skill] if skill else [])]


def skill_options(wildcards):
    """Asks a fine-tune for its skill, if it has one."""
    skill = STUDY.targets[wildcards.target].skill
    return (
        f"--suite skill --skill {skill} --skill-samples {SETTINGS.evaluation.skill.samples}"
        if skill
        else ""
    )


def grafts_of(wildcards):
    """Every graft of a fine-tune, its theta-only control rows among them."""
    return expand(GRAFT, seed=SEEDS, target=wildcards.target, kind=KINDS)


def labelled(models):
    """Models as `contextgraft evaluate` takes them: LABEL=FOLDER."""
    return [f"{label}={Path(manifest).parent}" for label, manifest in models.items()]


def target_models(wildcards):
    """The fine-tune alone and every graft of it, labelled."""
    target = wildcards.target
    grafts = {
        f"{target}-s{seed}-{kind}": GRAFT.format(seed=seed, target=target, kind=kind)
        for seed in SEEDS
        for kind in KINDS
    }
    return labelled({target: TARGET.format(target=target), **grafts})


def base_models(wildcards):
    """The base and every donor, labelled."""
    donors = {donor_name(seed): DONOR.format(seed=seed) for seed in SEEDS}
    return labelled({"base": BASE, **donors})


def grid(wildcards):
    """The needle grid as options of `contextgraft evaluate`."""
    needle = SETTINGS.evaluation.needle
    return (
        f"--suite needle --lengths {','.join(map(str, needle.lengths))} --depths {','.join(f'{d:g}' for d in needle.depths)}"
        f" --samples {needle.samples} --distractors {needle.distractors} --seed {needle.seed}"
        f" --batch-size {SETTINGS.evaluation.batch_size}"
    )
