"""The workflow's own form: lint, format, profiles, environments, DVC stages."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from contextgraft.formats.find_samples import ALIGNMENTS, COPIES, SUMMARY
from contextgraft.report.folder import DIGESTS, FOLDERS
from contextgraft.workflow import StudyPaths

ROOT = Path(__file__).parents[2]
PROFILES = ("local", "slurm")


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_lint_finds_nothing() -> None:
    done = run("snakemake", "--lint", "json")
    findings = json.loads(done.stdout or "{}")
    assert not findings.get("rules"), done.stdout + done.stderr
    assert not findings.get("snakefiles"), done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


def test_every_rule_has_log_benchmark_version_and_environment() -> None:
    rules = [text for path in (ROOT / "workflow/rules").glob("*.smk") for text in parts(path.read_text())]
    assert len(rules) == 7
    for text in rules:
        missing = [
            part
            for part in ("log:", "benchmark:", "version=VERSION", "conda:", "**requested(")
            if part not in text
        ]
        assert not missing, (text.splitlines()[0], missing)


def test_folders_are_outputs_only_where_nothing_depends_on_their_times() -> None:
    """Snakemake dates a folder by a file inside it, which DVC leaves out."""
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        assert path.name == "report.smk" or "directory(" not in path.read_text(), path.name


def test_everything_of_a_report_is_declared() -> None:
    """A remote storage gets the declared outputs only, and the page links to the others."""
    declared = re.findall(r'\{PATHS\.report\}/([^"]+)"', (ROOT / "workflow/rules/report.smk").read_text())
    assert sorted(declared) == sorted([*FOLDERS, ALIGNMENTS, COPIES, DIGESTS, SUMMARY])


def parts(text: str) -> list[str]:
    """The rules of one file."""
    return re.split(r"^(?=rule )", text, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_found_by_the_name_that_people_type(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / "profiles" / name
    assert isinstance(yaml.safe_load((link / "config.v9+.yaml").read_text()), dict)


def test_local_profile_plans_the_demo() -> None:
    done = run("snakemake", "--profile", "local", "--dry-run", "--forceall", "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_profile_caps_a_clusters_threads() -> None:
    default = yaml.safe_load((ROOT / "profiles/default/config.v9+.yaml").read_text())
    # it is read under the other profiles, too
    assert default == {"rerun-incomplete": True, "nolock": True, "show-failed-logs": True}
    assert "cores" not in yaml.safe_load((ROOT / "slurm/config.v9+.yaml").read_text())


def canonical(requirement: str) -> str:
    """Name of a requirement as pip compares names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>!~ ]", requirement, maxsplit=1)[0]).lower()


def test_environment_has_the_versions_of_the_lock() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    lock = {canonical(line): line.split("==")[1].rstrip("\\ ") for line in lines if "==" in line}
    listed = yaml.safe_load((ROOT / "envs/contextgraft.yaml").read_text())["dependencies"]
    pins = {canonical(pin): pin.split("==")[1] for pin in listed[-1]["pip"]}
    assert pins == {name: lock[name] for name in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(pin for name in extras if name != "dev" for pin in extras[name])]
    assert {canonical(requirement) for requirement in wanted} - {"contextgraft"} == set(pins)


def test_container_has_the_lock_and_the_same_python() -> None:
    text = (ROOT / "envs/Containerfile").read_text().replace("\\\n", " ")
    lines = text.splitlines()
    instructions = [line.split() for line in lines if line and not line.startswith("#")]
    copied = [name for first, *names in instructions if first == "COPY" for name in names[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert "requirements-cuda.lock" in copied
    installs = [words for words in instructions if words[0] == "RUN" and "install" in words]
    assert installs[0][-3:] == ["--require-hashes", "--requirement", "requirements-cuda.lock"]
    assert installs[1][-2:] == [
        "--no-deps",
        ".",
    ]  # the package itself, and no version that differs from the lock
    (image,) = (words[1] for words in instructions if words[0] == "FROM")
    conda = yaml.safe_load((ROOT / "envs/contextgraft.yaml").read_text())["dependencies"][0]
    assert f"python:{conda.split('=')[1]}-" in image
    deploy = (ROOT / "envs/contextgraft.post-deploy.sh").read_text()
    assert "pip install --no-deps ." in deploy


def test_apptainer_builds_the_same_container() -> None:
    docker, apptainer = ((ROOT / "envs" / name).read_text() for name in ("Containerfile", "contextgraft.def"))
    (image,) = re.findall(r"^FROM (\S+)", docker, re.MULTILINE)
    assert f"From: {image}" in apptainer
    assert re.findall("pip install .*", docker) == re.findall("pip install .*", apptainer)
    (copied,) = re.findall(r"%files\n(.*) /opt/contextgraft/\n", apptainer)
    assert copied.split() == [word for line in re.findall("COPY (.*) \\.", docker) for word in line.split()]
    assert 'container: "envs/contextgraft.sif"' in (ROOT / "workflow/Snakefile").read_text()


def test_dvc_keeps_every_folder_that_the_rules_fill() -> None:
    """What a clone cannot pull it would make again."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    kept = {name for stage in stages for out in stage["outs"] for name in out}
    paths = StudyPaths("${study}")
    patterns = [*vars(paths).values(), paths.log("x"), paths.benchmark("x")]
    filled = {"/".join(pattern.split("/")[:3]) for pattern in patterns if pattern.count("/") > 1}
    passing = {"results/${study}/logs", "results/${study}/benchmarks"}
    assert filled - kept == {*passing, ".snakemake/studies/${study}.lock"}


def test_dvc_reads_its_five_stages() -> None:
    done = run("dvc", "stage", "list", "--name-only")
    assert done.stdout.split() == ["models", "adapters", "samples", "grafts", "report"], done.stderr
    assert run("dvc", "dag", "--dot").returncode == 0
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    for stage in stages:
        assert stage["cmd"].startswith("snakemake")
        assert "--profile" not in stage["cmd"]
