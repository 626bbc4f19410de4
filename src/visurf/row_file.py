"""A JSONL file that grows in whole batches and can be gone on with after a kill, byte for byte."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from visurf.config import ConfigError, differences


class RowFile:
    """Rows of a long computation; how far it came stands in `NAME.progress.json` beside them.

    A batch counts when its progress is written, which is after its rows. Rows of a batch that did not count are cut off when
    the file is opened again.

    Attributes:
        done: Inputs that count, in order from the first.
        tally: What was counted over them.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Begin a file, or open one that was begun with the same settings.

        Raises:
            ConfigError: The file holds something else, rows of other settings, or fewer than its progress says.
        """
        self.path, self._progress = path, path.with_name(f"{path.name}.progress.json")
        # As they come back from the file: tuples become lists.
        self._settings = json.loads(json.dumps(settings))
        self.done, self.tally = 0, dict[str, Any]()
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._progress.exists():
            self._resume(json.loads(self._progress.read_text()))
        elif path.exists():
            raise ConfigError(f"{path} exists and was not begun by this command; choose another file")
        else:
            path.touch()
            self._write_progress()

    def _resume(self, before: Mapping[str, Any]) -> None:
        asked = self._settings
        for name, was, now in (d for n in asked for d in differences(before["settings"].get(n), asked[n], n)):
            raise ConfigError(f"{self.path} was begun with {name}: {was!r}, asked is {now!r}; choose another file")
        if not self.path.exists() or self.path.stat().st_size < before["bytes"]:
            raise ConfigError(f"{self.path} is shorter than {self._progress.name} says; delete both to begin anew")
        os.truncate(self.path, before["bytes"])
        self.done, self.tally = before["done"], before["tally"]

    def append(self, rows: Iterable[Mapping[str, Any]], done: int, tally: Mapping[str, Any]) -> None:
        """Write the rows of a batch, then that it is done."""
        with self.path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            stream.flush()
            os.fsync(stream.fileno())
        self.done, self.tally = done, dict(tally)
        self._write_progress()

    def _write_progress(self) -> None:
        state = {"done": self.done, "bytes": self.path.stat().st_size, "tally": self.tally, "settings": self._settings}
        partial = self._progress.with_name(f".{self._progress.name}.partial")
        partial.write_text(json.dumps(state, indent=1))
        partial.replace(self._progress)
