"""The page links to the Parquet and CSV files next to it, wherever its folder is."""

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest

from contextgraft.errors import OutputError
from contextgraft.formats.find_samples import PAGE, SampleFile, find_sample_files
from contextgraft.report import build as build_module
from contextgraft.report.build import build
from contextgraft.report.copies import read_copies
from contextgraft.report.folder import check_replaceable, write_report


@pytest.fixture
def samples(tmp_path: Path, synthetic: SimpleNamespace) -> Path:
    """Two fine-tunes, whose files have an odd name."""
    for name in ("a", "b"):
        rows = list(synthetic.skill(synthetic.Model(name), "chess", 7, n=10))
        synthetic.write(tmp_path / f"in/{name}/#1 ?.parquet", rows)
    return tmp_path / "in"


def links(page: str) -> list[str]:
    """The addresses of files that the page links to."""
    return re.findall(r'href="(?!#|data:)([^"]*)"', page)


def test_every_link_leads_to_a_file_after_a_move(samples: Path, tmp_path: Path) -> None:
    write_report(build([samples], [], "t", None), tmp_path / "report")
    check_replaceable(tmp_path / "report")
    moved = (tmp_path / "report").rename(tmp_path / "moved")
    found = links((moved / PAGE).read_text())
    assert set(found) >= {"summary.json", "samples/a_1.parquet", "samples/b_1.parquet"}
    assert all((moved / unquote(address)).is_file() for address in found)
    assert pq.read_table(moved / "samples/a_1.parquet") == pq.read_table(samples / "a/#1 ?.parquet")


def test_copies_are_not_samples_of_the_folder_above(samples: Path, tmp_path: Path) -> None:
    write_report(build([samples], [], "t", None), samples / "report")
    assert [file.name for file in find_sample_files([samples])] == ["a/#1 ?.parquet", "b/#1 ?.parquet"]
    assert len(find_sample_files([samples / "report"])) == 2


def test_large_samples_are_neither_copied_nor_linked(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "read_copies", partial(read_copies, most_bytes=100))
    made = build([samples], [], "t", None)
    assert (made.copies, links(made.texts[PAGE])) == ((), ["summary.json"])
    write_report(made, tmp_path / "report")
    lines = (tmp_path / "report/samples/not-copied.txt").read_text().splitlines()
    assert lines == ["Not copied: more than 64 MB together.", "a/#1 ?.parquet", "b/#1 ?.parquet"]
    assert [file.name for file in (tmp_path / "report").iterdir() if "alignment" in file.name] == []
    check_replaceable(tmp_path / "report")
    (tmp_path / "report/samples/own.txt").touch()
    with pytest.raises(OutputError):
        check_replaceable(tmp_path / "report")


def test_files_of_one_name_have_copies_of_their_own(samples: Path) -> None:
    files = [SampleFile(samples / name / "#1 ?.parquet", "x.parquet") for name in ("a", "b")]
    assert [copy.address for copy in read_copies("samples", files)] == [
        "samples/x.parquet", "samples/x-no2.parquet",
    ]  # fmt: skip


def test_samples_that_are_no_copies_are_never_replaced(samples: Path, tmp_path: Path) -> None:
    # the layout of a study: its samples are in results/STUDY/samples
    own = (samples / "b/#1 ?.parquet").rename(tmp_path / "b.parquet")
    kept = tmp_path / "study/samples/b.parquet"
    kept.parent.mkdir(parents=True)
    own.rename(kept)
    with pytest.raises(OutputError, match=r"contains other files.*samples/b\.parquet"):
        write_report(build([samples], [], "t", None), tmp_path / "study")
    assert [path.name for path in kept.parent.iterdir()] == ["b.parquet"]
    write_report(build([samples], [], "t", None), tmp_path / "report")
    copy = tmp_path / "report/samples/a_1.parquet"
    with pytest.raises(OutputError, match="contains an input of this command"):
        check_replaceable(tmp_path / "report", [copy])
    copy.write_bytes(kept.read_bytes())  # what someone put into its place
    with pytest.raises(OutputError, match=r"contains other files.*samples/a_1\.parquet"):
        check_replaceable(tmp_path / "report")


def test_a_report_is_made_again_where_snakemake_removed_its_outputs(samples: Path, tmp_path: Path) -> None:
    made = build([samples], [], "t", None)
    write_report(made, tmp_path / "report")
    for name in (PAGE, "summary.json"):
        (tmp_path / "report" / name).unlink()
    write_report(made, tmp_path / "report")
    assert (tmp_path / "report" / PAGE).is_file()


def test_copies_of_alignments_are_no_samples(samples: Path, tmp_path: Path) -> None:
    write_report(build([samples], [], "t", None), samples / "report")
    alignment = samples / "report/alignments/align.parquet"
    alignment.parent.mkdir()
    alignment.write_bytes(b"of a report")
    assert len(find_sample_files([samples])) == len(find_sample_files([samples / "report"])) == 2
