"""Where a study's files are: patterns in which the words in braces are Snakemake's wildcards."""

from pathlib import PurePosixPath

MANIFEST = "contextgraft.json"  # written last into every folder of a model, with the digest of the rest


class StudyPaths:
    """Paths below the working folder. A folder of a model is represented by the manifest inside it.

    `kind` of a graft is r<rank>, theta-only, or `recommended`, whose rank is known after the evaluation.
    """

    def __init__(self, study: str) -> None:
        self.data = f"data/{study}"
        self.results = f"results/{study}"
        self.model = f"{self.data}/models/{{model}}/{MANIFEST}"
        self.base = self.model.replace("{model}", "base")
        self.donor = self.model.replace("{model}", "donor-s{seed}")
        self.target = self.model.replace("{model}", "{target}")
        self.adapter = f"{self.data}/adapters/s{{seed}}/r{{rank}}/{MANIFEST}"
        self.graft = f"{self.data}/grafts/s{{seed}}/{{target}}/{{kind}}/{MANIFEST}"
        self.graft_records = f"{self.results}/grafts"
        self.graft_record = f"{self.graft_records}/s{{seed}}/{{target}}/{{kind}}/{MANIFEST}"
        self.alignment = f"{self.results}/alignment/s{{seed}}/{{target}}.parquet"
        self.verdict = f"{self.results}/verified/s{{seed}}/{{target}}/{{kind}}.json"
        self.recommendation = f"{self.results}/recommended/{{target}}.json"
        self.samples = f"{self.results}/samples/{{target}}.parquet"
        self.base_samples = self.samples.replace("{target}", "base")
        self.evaluation = f"{self.results}/samples/{{target}}.yaml"
        self.base_evaluation = self.evaluation.replace("{target}", "base")
        self.report = f"{self.results}/report"
        self.lock = f".snakemake/studies/{study}.lock"
        self.page = f"{self.report}/index.html"

    def log(self, job: str) -> str:
        """The log of a job, which is named by its rule and wildcards, such as merge/s{seed}/{target}."""
        return f"{self.results}/logs/{job}.log"

    def benchmark(self, job: str) -> str:
        """The measured time and memory of a job."""
        return f"{self.results}/benchmarks/{job}.tsv"


def folder_of(manifest: str) -> str:
    """The folder that a manifest represents."""
    return str(PurePosixPath(manifest).parent)
