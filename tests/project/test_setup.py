"""scripts/setup.sh: `.venv` is what the locks say, whatever interrupted it. Python and pip are stand-ins."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/bash
case "$1 $2" in
"-c "*version*) cat "${0%/*}/version" 2>/dev/null || echo 3.11 ;;
"-c "*) exit 0 ;;
"-m venv") mkdir -p .venv/bin; rm -rf .venv/* .venv/.[!.]*; mkdir .venv/bin; cp pip .venv/bin/python ;;
esac
"""
PIP = """#!/bin/bash
[ "$1 ${2#import pip}" != "-c " ] || exit $(ls replaced 2>/dev/null | wc -l)
[ "$1" != -c ] || { echo 3.11; exit 0; }
[ ! -e "stop at $(wc -l < calls)" ] || exit 130
echo "$*" >> calls
case "$*" in *--requirement*) cp requirements.lock .venv/content ;; esac
"""
STEPS = 2  # calls of pip: the lock, then the package itself


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/setup.sh", folder / "scripts")
    for name, text in {"python": PYTHON, "pip": PIP, "pyproject.toml": "x", "requirements.lock": "A"}.items():
        (folder / name).write_text(text)
    for name in ("python", "pip"):
        (folder / name).chmod(0o755)
    return folder


def setup(folder: Path, lock: str, stop: int | None = None) -> tuple[int, list[str]]:
    """Run setup with a lock, interrupted at one of its calls of pip; the calls that were made."""
    write_lock(folder, lock)
    if stop is not None:
        (folder / f"stop at {stop}").touch()
    code = run_setup(folder)
    (folder / f"stop at {stop}").unlink(missing_ok=True)
    return code, (folder / "calls").read_text().splitlines()


def write_lock(folder: Path, lock: str) -> None:
    """Write a lock, and forget the calls that were made."""
    (folder / "requirements.lock").write_text(lock)
    (folder / "calls").write_text("")


def run_setup(folder: Path) -> int:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(folder / "python")}
    return subprocess.run(["bash", "scripts/setup.sh"], cwd=folder, env=environment, check=False).returncode


def test_the_lock_is_installed_once_and_with_its_hashes(checkout: Path) -> None:
    code, calls = setup(checkout, "A")
    assert code == 0
    assert [("--require-hashes" in call, "--no-deps" in call) for call in calls] == [
        (True, True),
        (False, True),
    ]
    assert setup(checkout, "A") == (0, [])


@pytest.mark.parametrize("stop", range(STEPS))
@pytest.mark.parametrize("first", ["A", None])
def test_an_interrupted_upgrade_then_the_old_lock(checkout: Path, stop: int, first: str | None) -> None:
    if first is not None:
        setup(checkout, first)
    assert setup(checkout, "B", stop)[0] != 0
    assert setup(checkout, "A")[0] == 0
    assert (checkout / ".venv/content").read_text() == "A"
    assert setup(checkout, "A") == (0, [])


def test_a_moved_checkout_is_installed_anew(checkout: Path) -> None:
    setup(checkout, "A")
    moved = checkout.rename(checkout.with_name("moved"))
    (moved / ".venv/left").touch()
    code, calls = setup(moved, "A")
    assert (code, len(calls)) == (0, STEPS)
    assert not (moved / ".venv/left").exists()


def linked(checkout: Path) -> Path:
    """A checkout whose `.venv` is a link to a folder outside; returns that folder."""
    outside = checkout.with_name("environment")
    setup(checkout, "A")
    (checkout / ".venv").rename(outside)
    (checkout / ".venv").symlink_to(outside)
    (outside / ".installed").unlink()
    return outside


def test_a_moved_checkout_whose_venv_is_a_link_is_installed_again(checkout: Path) -> None:
    outside = linked(checkout)
    digest = sha256((checkout / "requirements.lock").read_bytes() + b"x").hexdigest()
    (outside / ".installed").write_text(f"{outside}\n{digest}\n{checkout}\n")
    assert setup(checkout, "A") == (0, [])
    moved = checkout.rename(checkout.with_name("moved"))
    code, calls = setup(moved, "A")
    assert (code, len(calls)) == (0, STEPS)
    assert (outside / ".installed").read_text().splitlines()[2] == str(moved)
    assert setup(moved, "A") == (0, [])


@pytest.mark.parametrize("target", ["another's", "nothing"])
def test_of_a_link_that_cannot_be_used_only_the_link_is_removed(checkout: Path, target: str) -> None:
    outside = linked(checkout)
    (outside / "kept").touch()
    if target == "nothing":
        outside = outside.rename(outside.with_name("elsewhere"))
    code, calls = setup(checkout, "A")
    assert (code, len(calls)) == (0, STEPS)
    assert not (checkout / ".venv").is_symlink()
    assert (outside / "kept").exists()
    assert setup(checkout, "A") == (0, [])


@pytest.mark.parametrize("stamp", [2, 3])  # lines; earlier versions wrote two
def test_nothing_is_installed_into_the_environment_of_another_checkout(
    checkout: Path, capfd: pytest.CaptureFixture[str], stamp: int
) -> None:
    setup(checkout, "A")
    installed = checkout / ".venv/.installed"
    installed.write_text("".join(installed.read_text().splitlines(keepends=True)[:stamp]))
    other = checkout.with_name("other")
    shutil.copytree(checkout, other, ignore=shutil.ignore_patterns(".venv"))
    (other / ".venv").symlink_to(checkout / ".venv")
    assert setup(other, "A") == (0, [])
    before = {path: path.read_bytes() for path in (checkout / ".venv").rglob("*") if path.is_file()}
    capfd.readouterr()
    assert setup(other, "B") == (2, [])
    output = capfd.readouterr()
    assert "setup:" not in output.out
    (line,) = output.err.splitlines()
    assert f".venv is a link to the environment of {checkout}, which does not fit this checkout" in line
    assert "rm .venv" in line
    assert before == {path: path.read_bytes() for path in (checkout / ".venv").rglob("*") if path.is_file()}
    (other / ".venv").unlink()
    assert setup(other, "B")[0] == 0
    assert (checkout / ".venv/content").read_text() == "A"


def test_a_checkout_whose_path_has_spaces_and_quotes(checkout: Path) -> None:
    odd = checkout.rename(checkout.with_name("my 'check' out $(x)"))
    assert len(setup(odd, "A")[1]) == STEPS
    assert setup(odd, "A") == (0, [])


def test_a_venv_whose_python_cannot_start_is_made_anew(checkout: Path) -> None:
    setup(checkout, "A")
    (checkout / ".venv/bin/python").unlink()
    code, calls = setup(checkout, "A")
    assert (code, len(calls)) == (0, STEPS)


def test_another_python_is_noticed(checkout: Path) -> None:
    setup(checkout, "A")
    (checkout / "version").write_text("3.12")  # of $PYTHON
    (checkout / ".venv/left").touch()
    assert len(setup(checkout, "A")[1]) == STEPS
    assert not (checkout / ".venv/left").exists()
    (checkout / "version").unlink()
    (checkout / "replaced").touch()  # the system's Python, which finds no packages since
    assert len(setup(checkout, "A")[1]) == STEPS
    (checkout / "replaced").unlink()
    assert setup(checkout, "A") == (0, [])


def test_two_setups_at_once_install_once(checkout: Path) -> None:
    write_lock(checkout, "A")
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(run_setup, [checkout, checkout])) == [0, 0]
    assert (checkout / ".venv/content").read_text() == "A"
    assert (checkout / "calls").read_text().count("--requirement") == 1


def test_every_pin_has_a_hash_and_every_install_checks_it() -> None:
    for name in ("requirements.lock", "requirements-cuda.lock"):
        pins = [line for line in (ROOT / name).read_text().splitlines() if "==" in line]
        assert pins
        assert all(pin.endswith(" \\") for pin in pins), name
    for name in (
        "scripts/setup.sh",
        "envs/Containerfile",
        "envs/contextgraft.def",
        "envs/contextgraft.post-deploy.sh",
    ):
        lines = [line for line in (ROOT / name).read_text().splitlines() if "--requirement" in line]
        assert all("--require-hashes" in line for line in lines), name


def test_without_root_and_browser_the_other_tests_still_run(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(shutil.which(name) or "")
    for name, text in {"id": "echo 1000", "apt-get": "exit 100", "sudo": "exit 1"}.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/browser.sh")],
        env={"PATH": str(programs)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert "are skipped" in done.stdout
