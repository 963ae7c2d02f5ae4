"""One run of a study at a time; a run that was killed does not keep the next one from starting.

The lock is an flock, which the kernel releases when the process ends, however it ends. A file system may keep
flocks on each node for itself, so the lock file also names the process that holds it: a process on another
node that did not remove its name may still run, and is never displaced.
"""

import atexit
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

from contextgraft.errors import OutputBusy, OutputError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SLURM_RUN = "slurm_run"


class StudyLock:
    """The lock file of a study; `acquire` locks it until this process ends, `sign` puts its name in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._signed_by = 0
        self._handle = -1

    def acquire(self) -> str | None:
        """Lock the study; returns the name that the jobs of a killed run have in Slurm's queue, if any.

        Raises OutputBusy if another run of the study is alive, or may be alive on another node.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputBusy(
                f"another run of this study is alive: {_name(self._read())}",
                path=self.path,
                remedy="wait for it, or stop it and run the same command again",
            ) from None
        except OSError as error:
            raise OutputError(
                "the study cannot be locked",
                path=self.path,
                received=error.strerror,
                remedy="run it on a file system with free space and locks",
            ) from None
        holder, here = self._read(), _this_machine()
        # a holder on this machine has ended, since its lock is free
        if holder and not any(here[key] and holder.get(key) == here[key] for key in here):
            raise OutputBusy(
                f"a run of this study on {_name(holder)} did not end by itself and may still be alive",
                path=self.path,
                remedy="stop it there, or remove this file once it has ended",
            )
        return holder.get(SLURM_RUN)

    def sign(self, slurm_run: str | None) -> None:
        """Name this process as the holder until it ends, and the name that its jobs have in Slurm's queue."""
        self._signed_by = os.getpid()
        self._write(json.dumps({**_this_machine(), "process": self._signed_by, SLURM_RUN: slurm_run}))
        atexit.register(self.release)

    def release(self) -> None:
        """Remove the name of this process; a forked child of it does not."""
        if self._handle >= 0 and os.getpid() == self._signed_by:
            self._write("")
            os.close(self._handle)
            self._handle = -1

    def _read(self) -> dict[str, Any]:
        """The process named in the file; empty if there is none, or if it was killed while it signed."""
        try:
            holder = json.loads(os.pread(self._handle, 1 << 12, 0))
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}

    def _write(self, text: str) -> None:
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text.encode(), 0)


def _this_machine() -> dict[str, str]:
    """Its host name, and the boot whose kernel answers for its locks."""
    return {"host": socket.gethostname(), "boot": BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""}


def _name(holder: dict[str, Any]) -> str:
    return f"{holder.get('host', 'an unknown host')}, process {holder.get('process', 'unknown')}"
