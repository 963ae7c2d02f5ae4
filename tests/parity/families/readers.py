"""What transformers 4.46 and 4.57 compute of grafts: the rows of readers.json, which the page shows."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from tests.parity.families import old_reader
from tests.parity.families.proof import LENGTHS, logits, prove
from tests.parity.families.table import FAMILIES

READERS = Path(__file__).with_name("readers.json")
VERSIONS = ("4.46", "4.57")
FIRST, FORMS = "theta", ("linear", "yarn", "llama3", "longrope", "window")


def write_grafts(rows: Mapping[str, Sequence[str]], root: Path) -> dict[tuple[str, str], Path]:
    """A folder with a graft and the donor's logits in this transformers, for each form of each family."""
    folders = {}
    for number, (name, form) in enumerate((name, form) for name, forms in rows.items() for form in forms):
        folder = root / str(number)
        folder.mkdir()
        proof = prove(name, FAMILIES[name], form, folder)
        if proof is not None and not proof.refusal:
            expected = {str(length): logits(folder / "donor", length).contiguous() for length in LENGTHS}
            save_file(expected, folder / "expected.safetensors")
            folders[name, form] = folder
    return folders


def table(readers: Mapping[str, Mapping[str, Mapping[str, str]]]) -> list[str]:
    """The lines of the tables of older readers, and of the list of errors below them."""
    said = [text for families in readers.values() for forms in families.values() for text in forms.values()]
    errors = sorted({text for text in said if text not in (old_reader.RIGHT, old_reader.ABSENT)})
    cells = {old_reader.RIGHT: "right", old_reader.ABSENT: "-", "": "-"}
    cells |= {text: chr(ord("a") + number) for number, text in enumerate(errors)}
    lines = [f"| class | {' | '.join(readers)} |", f"|---|{'---|' * len(readers)}"]
    for name in next(iter(readers.values())):
        lines.append(
            f"| {name} | {' | '.join(cells[families[name][FIRST]] for families in readers.values())} |"
        )
    for version, families in readers.items():
        lines += ["", f"The other forms of a donor in transformers {version}:", ""]
        lines += [f"| class | {' | '.join(FORMS)} |", f"|---|{'---|' * len(FORMS)}"]
        for name, forms in families.items():
            if len(forms) > 1 and forms[FIRST] != old_reader.ABSENT:
                lines.append(f"| {name} | {' | '.join(cells[forms.get(form, '')] for form in FORMS)} |")
    return [
        *lines,
        "",
        *(f"- {cells[text]}: {text.removeprefix(f'{old_reader.ALIKE}: ')}" for text in errors),
    ]


def read_by(python: Path, folders: Mapping[tuple[str, str], Path]) -> dict[str, dict[str, str]]:
    """What an older transformers says of each graft, by family and form."""
    words = [str(python), old_reader.__file__, *map(str, folders.values())]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    said: dict[str, str] = {}
    for line in done.stdout.splitlines():
        said |= json.loads(line) if line.startswith('{"') else {}
    result: dict[str, dict[str, str]] = {}
    for (name, form), folder in folders.items():
        result.setdefault(name, {})[form] = said[str(folder)]
    return result


def read_readers() -> dict[str, dict[str, dict[str, str]]]:
    """By version, family and form, as the tests prove them."""
    rows: dict[str, dict[str, dict[str, str]]] = json.loads(READERS.read_text())
    return rows
