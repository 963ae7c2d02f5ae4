"""`contextgraft publish`: upload an adapter, a graft or a trained model to the hub with its model card."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from contextgraft.cli.options import PATH, example, json_option
from contextgraft.cli.output import echo, format_bytes, print_json
from contextgraft.cli.progress import bytes_bar, bytes_log, message_writer
from contextgraft.cli.verbosity import is_quiet
from contextgraft.formats.model_card.licence import CARD

if TYPE_CHECKING:
    from contextgraft.sources.hub.package import UploadPackage


@click.command(epilog=example("contextgraft publish adapters/r32 --to OWNER/NAME --dry-run"))
@click.argument("folder", type=PATH)
@click.option(
    "--to", required=True, metavar="OWNER/NAME", help="The repository; created if it does not exist."
)
@click.option("--private", is_flag=True, help="Create a new repository as private.")
@click.option(
    "--revision", metavar="BRANCH", help="Branch to commit to, created if it does not exist; default: main."
)
@click.option(
    "--card",
    type=PATH,
    help="Model card; default: the folder's README.md, otherwise one from its record. "
    "OWNER/NAME in it becomes the repository's name.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check the folder and list the files; the hub is not contacted."
)
@json_option()
def command(
    *,
    folder: Path,
    to: str,
    private: bool,
    revision: str | None,
    card: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Upload an adapter, a graft or a trained model to the hub with its model card.

    The folder is checked first, and its files are listed. The token is that of `hf auth login` or HF_TOKEN
    and needs write permission.
    """
    from contextgraft.sources.hub.package import build_package

    package = build_package(folder, to, card)
    for warning in package.warnings:
        echo(f"contextgraft: warning: {warning}", err=True)
    if not as_json:
        _show(package)
    facts = {"to": to, "kind": package.kind, "files": package.files, "card": package.card}
    if not dry_run:
        facts |= _upload(package, private, revision)
    if as_json:
        print_json(facts, ensure_ascii=False)
    else:
        echo(f"{folder}  {'not sent: --dry-run' if dry_run else facts['url']}")


def _upload(package: "UploadPackage", private: bool, revision: str | None) -> dict[str, str]:
    import logging

    from huggingface_hub.utils import disable_progress_bars

    from contextgraft.sources.hub.client import DownloadProgress, Hub
    from contextgraft.sources.hub.upload import upload, uses_xet

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings contain addresses
    clients_bars = uses_xet() and sys.stderr.isatty() and not is_quiet()
    if not clients_bars:
        disable_progress_bars()
    log = message_writer("publish")
    log(f"{format_bytes(package.bytes)} at most to send to {package.to}; what the hub has is not sent again")
    hub = Hub(progress=DownloadProgress(log=log))
    with (bytes_log if clients_bars else bytes_bar)("publish", package.bytes) as advance:
        result = upload(package, hub, private=private, revision=revision, advance=advance)
    return {"commit": result.commit, "url": result.url}


def _show(package: "UploadPackage") -> None:
    sizes = {**package.files, CARD: len(package.card.encode())}
    for name, count in sorted(sizes.items()):
        echo(f"{format_bytes(count):>10}  {name}")
    echo(f"{format_bytes(package.bytes):>10}  in {len(sizes)} files, kind {package.kind}, to {package.to}")
