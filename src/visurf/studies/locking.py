"""One study at a time in a folder, counting trainings that outlive their study."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from visurf.config import ConfigError


@contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """Keep other studies out of a folder.

    The lock belongs to the open file, not to this process: processes that inherit the descriptor hold it until the last of them
    has ended, however that was. Where the system or the file system has no such locks nothing is kept out.

    Args:
        folder: The study's; it is made.

    Yields:
        The file's descriptor, or None without locks.

    Raises:
        ConfigError: Another study, or a training that it left behind, is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield None
        return
    with (folder / ".lock").open("a+") as file:
        held: int | None = file.fileno()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{folder}: the study of process {file.read().strip()}, or a training that it left behind, is at work in this "
                "folder; wait for it, end it, or choose another --out"
            ) from error
        except OSError:
            held = None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield held
