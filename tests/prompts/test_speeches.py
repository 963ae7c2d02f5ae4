"""The folder that `scripts/speeches.py DATA FOLDER` writes: one long text for `--haystack`."""

import subprocess
import sys
from pathlib import Path

from contextgraft.prompts.haystack import read_haystack

ROOT = Path(__file__).parents[2]


def test_a_folder_of_all_other_addresses_is_one_haystack(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shipped = ROOT / "src/contextgraft/prompts/texts/speeches.txt"
    before = shipped.read_bytes()
    for year, text in ((1790, "We met. We spoke."), (1911, "It is shipped."), (1965, "A Negro. An end.")):
        (data / f"{year}_somebody_n.txt").write_text(text)
        (data / f"{year}_somebody_n.json").write_text("{}")
    words = (sys.executable, ROOT / "scripts/speeches.py", data, tmp_path / "long")
    subprocess.run(list(map(str, words)), check=True)
    assert sorted(path.name for path in (tmp_path / "long").iterdir()) == [
        "1790_somebody_n.txt", "1965_somebody_n.txt"
    ]  # fmt: skip
    assert read_haystack("long", tmp_path).split() == ["We", "met.", "We", "spoke.", "An", "end."]
    assert shipped.read_bytes() == before
