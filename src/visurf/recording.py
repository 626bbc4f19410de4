"""What a run keeps of its groups: rows and small pictures, sampled so that both stay within their limits of bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from visurf import parallel
from visurf.config import RecordingConfig
from visurf.control import Controls
from visurf.group_rows import group_row
from visurf.scoring import Scorer
from visurf.small_pictures import FOLDER, PictureStore, is_stored_name, small_picture
from visurf.types import DataError, Group, Sample

ROLLOUTS = "rollouts.jsonl"
_MIB = 1 << 20


class Recorder:
    """Chooses the groups of a step that are written down; every process runs it and comes to the same rows.

    Only bytes of steps that count decide, so a run that was interrupted and goes on records what it would have recorded anyway.
    """

    def __init__(self, out: Path, settings: RecordingConfig, steps: int, begun: int = 0) -> None:
        """Take up a run.

        Args:
            out: The run folder.
            settings: How much to keep.
            steps: Of the whole run; the limits are spread over them.
            begun: Length of rollouts.jsonl that counts; what lies behind came from steps that will be done again.
        """
        self.settings, self.steps, self.written = settings, steps, begun
        known = dict(_named(out, begun))
        self.store = PictureStore(out / FOLDER, int(settings.picture_mb * _MIB), parallel.rank() == 0, known)

    def rows(self, step: int, groups: Sequence[Group], scorer: Scorer, controls: Controls) -> list[Mapping[str, Any]]:
        """The rows to write of a step, the same on all processes, which all call this; their pictures are written already.

        Args:
            step: Counted from 1.
            groups: This process's groups, with advantages.
            scorer: That of the stage.
            controls: Those that act.
        """
        settings = self.settings
        limit = int(settings.text_mb * _MIB)
        due = settings.groups > 0 and (step - 1) % settings.every == 0
        if not due or self.written >= self._allowed(limit, step):
            return []
        with parallel.agreed():
            chosen = groups[: len(parallel.share(range(settings.groups)))]
            mine = [(group_row(step, group, scorer, controls), self._pictures(group.sample)) for group in chosen]
        kept: list[Mapping[str, Any]] = []
        for row, pictures in parallel.rejoin(mine)[: settings.groups]:
            # A row that would cross the limit is left out whole, and so are its pictures.
            if self.written + _bytes(row | {"pictures": [p and p[0] for p in pictures]}) > limit:
                continue
            row["pictures"] = [self._store(picture, step) for picture in pictures]
            self.written += _bytes(row)
            kept.append(row)
        return kept

    def _pictures(self, sample: Sample) -> list[tuple[str, bytes] | None]:
        if not self.settings.picture_mb:
            return []
        found: list[tuple[str, bytes] | None] = []
        for image in sample.images:
            try:
                found.append(small_picture(image, self.settings.picture_side))
            except DataError:
                # The group was trained on; that its file has gone since is no reason to end the run.
                found.append(None)
        return found

    def _store(self, picture: tuple[str, bytes] | None, step: int) -> str | None:
        return None if picture is None else self.store.add(*picture, allowed=self._allowed(self.store.limit, step))

    def _allowed(self, limit: int, step: int) -> int:
        """Bytes that may be spent up to a step, itself included: a twentieth at once, the rest evenly over the run."""
        return int(limit * (0.05 + 0.95 * min(step / max(self.steps, 1), 1.0)))


def _bytes(row: Mapping[str, Any]) -> int:
    """Length of a row in its file."""
    return len(json.dumps(row, ensure_ascii=False).encode()) + 1


def _named(out: Path, begun: int) -> Iterator[tuple[str, int]]:
    """Names and bytes of the pictures that the first `begun` bytes of rollouts.jsonl name."""
    path = out / ROLLOUTS
    if not begun or not path.is_file():
        return
    with path.open("rb") as rows:
        for line in rows.read(begun).splitlines():
            for name in json.loads(line).get("pictures", ()):
                if is_stored_name(name) and (out / FOLDER / name).is_file():
                    yield name, (out / FOLDER / name).stat().st_size
