"""`contextgraft publish`: an adapter, a graft or a trained model to the hub, with its card."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from contextgraft.cli.options import PATH, json_option
from contextgraft.cli.output import format_bytes, print_json
from contextgraft.cli.progress import message_writer

if TYPE_CHECKING:
    from contextgraft.sources.hub.package import Parcel


@click.command()
@click.argument("folder", type=PATH)
@click.option("--to", required=True, metavar="OWNER/NAME", help="The repository; it is made if it is new.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--revision", metavar="BRANCH", help="Branch to commit to, made if it is new; default: main.")
@click.option(
    "--card",
    type=PATH,
    help="Model card; default: the folder's README.md, else a minimal one is written.",
)
@click.option("--dry-run", is_flag=True, help="Check and show what would be sent; ask nobody.")
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
    """Send an adapter, a graft or a trained model to the hub with its card.

    The folder is checked first, and what is sent of it is listed. The token is the one of `hf auth login` or
    HF_TOKEN; it must be allowed to write.
    """
    from contextgraft.sources.hub.package import pack

    parcel = pack(folder, to, card)
    if not as_json:
        _show(parcel)
    facts = {"to": to, "kind": parcel.kind, "files": parcel.files, "card": parcel.card}
    if not dry_run:
        facts |= _send(parcel, private, revision)
    if as_json:
        print_json(facts, ensure_ascii=False)
    else:
        click.echo(f"{folder}  {'not sent: --dry-run' if dry_run else facts['url']}")


def _send(parcel: "Parcel", private: bool, revision: str | None) -> dict[str, str]:
    import logging

    from huggingface_hub.utils import disable_progress_bars

    from contextgraft.sources.hub.client import Hub, Watch
    from contextgraft.sources.hub.upload import send

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings have addresses in them
    if not sys.stderr.isatty():
        disable_progress_bars()
    sent = send(parcel, Hub(watch=Watch(say=message_writer("publish"))), private=private, revision=revision)
    return {"commit": sent.commit, "url": sent.url}


def _show(parcel: "Parcel") -> None:
    sizes = {**parcel.files, "README.md": len(parcel.card.encode())}
    for name, count in sorted(sizes.items()):
        click.echo(f"{format_bytes(count):>10}  {name}")
    click.echo(f"{format_bytes(parcel.bytes):>10}  in {len(sizes)} files, kind {parcel.kind}, to {parcel.to}")
