"""A study so small that the whole workflow runs on it: random models, two training steps, two ranks."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..command_server import command_server

ROOT = Path(__file__).parents[2]
WORDS = (*"abcdef.?1234", "the", "secret", "code", "of", "is", "red", "blue", "green", "house", "river")


def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: index for index, word in enumerate(["<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", model_max_length=32)


def write_model(folder: Path, *, shift: float) -> None:
    """A random model; the same but for a shift of its linear layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 1,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    model = LlamaForCausalLM(config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.add_(shift * torch.randn(parameter.shape))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


@cache
def models_folder() -> tempfile.TemporaryDirectory[str]:
    """The models of every study, made once; deleted when this process ends."""
    folder = tempfile.TemporaryDirectory()
    for name, shift in {"base": 0.0, "tune": 0.01, "other": 0.02, "long": 0.03}.items():
        write_model(Path(folder.name) / name, shift=shift)
    return folder


NEEDLE = {
    "name": "tiny",
    "needle": "the secret code of {key} is {value} .",
    "question": "? {key}",
    "answer": "{value}",
    "keys": ["red", "blue", "green", "house", "river"],
    "values": ["1", "2", "3", "4"],
    "haystack": "haystack.txt",
    "scoring": "exact",
}
DONOR = {
    "name": "tiny-donor",
    "theta": "progressive",
    "stages": [{"length": 48, "steps": 1, "tokens": 48}, {"length": 64, "steps": 1, "tokens": 64}],
    "data": [{"kind": "needle", "format": "needle.yaml"}],
    "optimiser": {"learning_rate": 0.01, "warmup": 0},
}
FINE_TUNE = {
    "name": "tiny-tune",
    "stages": [{"length": 32, "steps": 1, "tokens": 32}],
    "data": [{"kind": "pairs", "file": "skill.jsonl"}],
    "optimiser": {"learning_rate": 0.01, "warmup": 0},
}
STUDY: dict[str, Any] = {
    "study": "tiny",
    "base": "models/base",
    "donor": {"train": "config/tiny/donor.yaml"},
    "fine_tunes": "config/fine_tunes.tsv",
    "ranks": [1, 4],
    "keep_grafts": "all",
    "evaluation": {
        "needle": {
            "format": "config/tiny/needle.yaml",
            "lengths": [32],
            "depths": [50],
            "samples": 1,
            "seed": 7,
        },
        "skill": {"samples": 2},
    },
    "note": "Tiny 'n' random.",
    "threads": {"train": 1, "extract": 1},
}
COLUMNS = "name\tsource\tneedle\tskill"


class StudyFolder:
    """A working folder with a study in it, in which Snakemake runs from the repository's Snakefile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self) -> None:
        """Models, recipes, sheet and configuration."""
        shutil.copytree(models_folder().name, self.folder / "models")
        tiny = self.folder / "config/tiny"
        tiny.mkdir(parents=True)
        for name, recipe in {"needle": NEEDLE, "donor": DONOR, "tune": FINE_TUNE}.items():
            (tiny / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        (tiny / "haystack.txt").write_text(" ".join(["a b c d e f ."] * 40))
        pairs = [{"prompt": f"{key} is", "answer": key} for key in ("a", "b", "c")]
        (tiny / "skill.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        self.sheet("tune\tmodels/tune\t\tconfig/tiny/skill.jsonl")
        self.config()

    def sheet(self, *lines: str) -> None:
        (self.folder / "config/fine_tunes.tsv").write_text("\n".join([COLUMNS, *lines]) + "\n")

    def config(self, file: str = "config/config.yaml", **changes: Any) -> None:
        (self.folder / file).write_text(yaml.safe_dump({**STUDY, **changes}))

    def snakemake(
        self, *arguments: str, configfile: str = "config/config.yaml"
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake; its two streams come joined, as a person sees them."""
        fixed = ("--snakefile", str(ROOT / "Snakefile"), "--cores", "2")
        return subprocess.run(
            [command_server("snakemake").command, *fixed, *arguments, "--configfile", configfile],
            cwd=self.folder, env=environment() | OF_THE_SHELL, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs by rule that Snakemake would run, stage names left out."""
        done = self.snakemake("--dry-run", *arguments)
        assert done.returncode == 0, done.stdout
        return job_counts(done.stdout)


def job_counts(output: str) -> dict[str, int]:
    """Jobs by rule in the output of a dry run, stage names left out."""
    rows = output.rpartition("Job stats:")[2].partition("Reasons:")[0].splitlines()
    counts = {row.split()[0]: int(row.split()[1]) for row in rows if row[-1:].isdigit()}
    return {rule: count for rule, count in counts.items() if rule not in ("total", "default", "all")}


# a job that read one of them would fail
OF_THE_SHELL = {"CONTEXTGRAFT_EVALUATE_ROUNDING": "unknown", "CONTEXTGRAFT_MERGE_ROUNDING": "unknown"}


def environment(commands: Path | None = None) -> dict[str, str]:
    """Of Snakemake: its jobs find `contextgraft` in the folder `commands`, or start in forked processes."""
    path = (commands or command_server("contextgraft").bin, Path(sys.executable).parent, os.environ["PATH"])
    return os.environ | {"PATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}


@cache
def finished_study(base: Path) -> StudyFolder:
    """The tiny study after a whole run, made once for the tests of all folders; each process has a copy.

    `base` is the folder for the temporary files of this process.
    """
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made, complete = common / "made-study", common / "made-study.complete"
    with (common / "made-study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(made, ignore_errors=True)
            study = StudyFolder(made)
            study.write()
            done = study.snakemake()
            assert done.returncode == 0, done.stdout[-6000:]
            complete.touch()
    subprocess.run(["cp", "-a", made, base / "finished-study"], check=True)
    return StudyFolder(base / "finished-study")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """The tiny study after a whole run; tests copy it before they change it."""
    return finished_study(tmp_path_factory.getbasetemp())


@pytest.fixture
def fresh(tmp_path: Path) -> StudyFolder:
    """The tiny study before any run."""
    study = StudyFolder(tmp_path)
    study.write()
    return study


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[StudyFolder], StudyFolder]:
    """Copy a study with its times, so that what is done stays done."""

    def copy(study: StudyFolder) -> StudyFolder:
        subprocess.run(["cp", "-a", f"{study.folder}/.", tmp_path], check=True)
        return StudyFolder(tmp_path)

    return copy
