"""A study of tiny fine-tunes, run and planned as a whole: starting its jobs is most of what it costs.

Fine-tunes are the base with one weight changed, and are asked one question each.
"""

import os
import shutil
import sys
from pathlib import Path

import yaml
from goals import PLANNED, RAN
from measure import Cost, run

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
RANKS = [4, 8, 16, 32]
HEAD = "name\tsource\tneedle\tskill"
TUNES, MANY = 20, 500


def studies(folder: Path, base: Path, donor: Path) -> dict[str, Cost]:
    """Plan a study of 500 fine-tunes, and run one of 20, in a folder."""
    tunes = [_tune(base, folder / f"tunes/{number}", number) for number in range(TUNES)]
    planned = _write_study(folder, base, donor, [base] * MANY)
    costs = {PLANNED: _snakemake(folder, planned, "--dry-run")}
    return costs | {RAN: _snakemake(folder, _write_study(folder, base, donor, tunes))}


def _tune(base: Path, tune: Path, number: int) -> Path:
    shutil.copytree(base, tune)
    with max(tune.glob("*.safetensors")).open("r+b") as file:
        file.seek(-2, os.SEEK_END)  # the low byte of the last bfloat16
        file.write(bytes([number]))
    return tune


def _write_study(folder: Path, base: Path, donor: Path, sources: list[Path]) -> Path:
    lines = [f"tune{number}\t{source}\t\t" for number, source in enumerate(sources)]
    (folder / "fine_tunes.tsv").write_text("\n".join([HEAD, *lines]) + "\n")
    needle = {"format": str(ROOT / "config/demo/needle_base.yaml"), "lengths": [1024], "depths": [50]}
    study = {
        "study": "bench",
        "base": str(base),
        "donor": {"source": str(donor)},
        "fine_tunes": "fine_tunes.tsv",
        "ranks": RANKS,
        "keep_grafts": "recommended",
        "evaluation": {"needle": {**needle, "samples": 1, "seed": 1}},
        "threads": {"extract": 1, "merge": 1, "evaluate": 1},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def _snakemake(folder: Path, study: Path, *words: str) -> Cost:
    command = ["snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--configfile", study]
    path = f"PATH={BIN}{os.pathsep}{os.environ['PATH']}"
    return run(["env", path, *command, "--cores", "all", "--quiet", "all", *words])
