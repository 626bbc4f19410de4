"""One run or one study at a time in a folder, counting trainings that outlive their study."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from visurf.config import ConfigError

_NAME = ".lock"


@contextmanager
def locked(folder: Path, what: str, option: str) -> Iterator[int | None]:
    """Keep others out of a folder.

    The lock belongs to the open file, not to this process: processes that inherit the descriptor hold it until the last of them
    has ended, however that was. Where the system or the file system has no such locks nothing is kept out.

    Args:
        folder: Of the run or study; it is made, and removed again where an error comes before anything else stands in it.
        what: What is at work there then, for the message to those kept out.
        option: Which option names another folder.

    Yields:
        The file's descriptor, or None without locks.

    Raises:
        ConfigError: Somebody is at work in the folder.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield None
        return
    with (folder / _NAME).open("a+") as file:
        held: int | None = file.fileno()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{folder}: {what} (process {file.read().strip()}) is at work in this folder; wait for it, end it, or choose "
                f"another {option}"
            ) from error
        except OSError:
            held = None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield held
        except BaseException:
            with suppress(OSError):
                if made and [path.name for path in folder.iterdir()] == [_NAME]:
                    (folder / _NAME).unlink()
                    folder.rmdir()
            raise
