"""What a study or a sheet says reaches a command as the one word that it is, whatever its characters.

Snakemake runs the whole study; a stand-in for `contextgraft` records its arguments and makes empty outputs.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from ..command_server import command_server
from .conftest import FINE_TUNE, NEEDLE, ROOT, STUDY, environment, write_model
from .test_mistakes import only_line

STAND_IN = """#!{python} -ISs
import json, pathlib, sys

words = sys.argv[1:]
with open({calls!r}, "a") as file:
    file.write(json.dumps(words) + "\\n")
verb = next((word for word in words if word in {verbs!r}), None)
out = next((pathlib.Path(words[at + 1]) for at, word in enumerate(words) if word == "--out"), None)
names = {{
    "extract": ["r2/contextgraft.json"],
    "report": [
        "index.html", "summary.json", "charts/a.svg", "cards/a.md", "plots/a.csv", "samples/a.parquet",
        "alignments/a.parquet", "copies.json",
    ],
    "evaluate": [""],
}}
files = "--recommendation", "--verify"
named = [pathlib.Path(words[at + 1]) for at, word in enumerate(words) if word in files]
for word in words if verb == "evaluate" else []:
    option, _, value = word.partition("=")
    if option == "--record":
        named.append(pathlib.Path(value.partition("=")[2]) / "contextgraft.json")
    elif option == "--alignment":
        named.append(pathlib.Path(value.partition("=")[2]))
for path in named:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{{}}")
if verb is None or out is None:
    sys.exit("not a command line of a study")
for name in names.get(verb, ["contextgraft.json"]):
    path = out / name if name else out
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{{}}")
"""
VERBS = ("fetch", "train", "extract", "evaluate", "merge", "report")
TEXT = "-x $(touch PWNED) `touch PWNED` '; touch PWNED; '\"; touch PWNED; \" > PWNED & $IFS ~ * ! # %s \\ 数"


def hostile_study(folder: Path, text: str) -> dict[str, Any]:
    """A study in which every free text is `text`; returns what its commands must receive."""
    recipe, needle, skill = (f"{text}.{end}" for end in ("yaml", "n.yaml", "jsonl"))
    (folder / recipe).write_text(yaml.safe_dump(FINE_TUNE | {"data": [{"kind": "pairs", "file": skill}]}))
    (folder / needle).write_text(yaml.safe_dump(NEEDLE))
    (folder / "haystack.txt").write_text("a b c d e f .")
    (folder / skill).write_text('{"prompt": "a", "answer": "b"}\n' * 2)
    source = f"{text}/m"
    write_model(folder / source, shift=0)
    quoted = [f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in (source, text, needle, skill, text)]
    rows = [
        "name\tsource\trevision\tneedle\tskill\tnotes",
        "\t".join(["fetched", *quoted]),
        "\t".join(["trained", f'"train:./{recipe.replace(chr(34), chr(34) * 2)}"']),
    ]
    (folder / "sheet.tsv").write_text("\n".join(rows) + "\n")
    evaluation: dict[str, Any] = yaml.safe_load(yaml.safe_dump(STUDY["evaluation"]))
    evaluation["needle"]["format"] = needle
    config = {
        **STUDY,
        "base": source,
        "donor": {"train": recipe},
        "fine_tunes": "sheet.tsv",
        "ranks": [2],
        "evaluation": evaluation,
        "extraction": {"include": "a{2}", "exclude": r"-x.{1,3}$(y)"},
        "note": f"{text} {{wildcards}} {{input[0]}} {{",
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    return {
        "sources": {source, f"{source}@{text}"},
        "options": {
            f"--note={text} {{wildcards}} {{input[0]}} {{",
            f"--config={recipe}",
            f"--config=./{recipe}",
            "--include=a{2}",
            r"--exclude=-x.{1,3}$(y)",
        },
        "formats": {needle},
    }


def test_free_text_is_one_word_of_a_command(tmp_path: Path) -> None:
    expected = hostile_study(tmp_path, TEXT)
    calls = tmp_path / "calls"
    command = tmp_path / "bin/contextgraft"
    command.parent.mkdir()
    command.write_text(STAND_IN.format(python=sys.executable, calls=str(calls), verbs=VERBS))
    command.chmod(0o755)
    words = ("--snakefile", str(ROOT / "Snakefile"), "--cores", "2", "--configfile", "study.yaml")
    done = subprocess.run(
        [command_server("snakemake").command, *words],
        cwd=tmp_path, env=environment(command.parent), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert not list(tmp_path.rglob("PWNED"))
    received = [json.loads(line) for line in calls.read_text().splitlines()]
    verbs = {next(word for word in call if word in VERBS) for call in received}
    assert verbs == set(VERBS)
    fetched = [call for call in received if "fetch" in call]
    assert {call[-1] for call in fetched} == expected["sources"]
    assert all(call[-2] == "--" for call in fetched)
    assert expected["options"] <= {word for call in received for word in call}
    configs = [
        yaml.safe_load(file.read_text()) for file in (tmp_path / "results/tiny/samples").glob("*.yaml")
    ]
    assert {config["needle"]["format"] for config in configs} == expected["formats"]


def test_a_file_name_that_snakemake_would_change_is_refused(fresh: Any) -> None:
    (fresh.folder / "config/tiny/{seed}.jsonl").write_text('{"prompt": "a", "answer": "a"}\n')
    fresh.sheet("tune\tmodels/tune\t\tconfig/tiny/{seed}.jsonl")
    done = fresh.snakemake("--dry-run")
    assert "{seed}.jsonl: a file of the study has a brace in its name" in only_line(done)
