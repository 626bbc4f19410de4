"""Rows of a hub data set: parquet files, or a folder of them; pictures stay in their file until they are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from visurf.benchmarks.rows import image_path
from visurf.types import DataError, ImageRef


@dataclass(frozen=True)
class ParquetCell:
    """Fetches the bytes of one picture from a parquet file."""

    path: Path
    group: int
    row: int
    column: str

    def __call__(self) -> bytes:
        """The encoded picture.

        Raises:
            DataError: The cell holds no picture.
        """
        value = _group_column(self.path, self.group, self.column)[self.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise DataError(f"{self.path}: row group {self.group}, row {self.row}, field {self.column!r}: holds no picture")
        return data


@lru_cache(maxsize=2)
def _group_column(path: Path, group: int, column: str) -> Any:
    # A picture's neighbours come with it; two groups in memory bound the cost of reading in order or nearly so.
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(0)


def parquet_files(root: Path, split: str) -> list[Path]:
    """The parquet files of a split: a file itself, or `SPLIT-*.parquet` (in `data/` or directly) of a hub snapshot.

    Raises:
        DataError: There are none; names the files that are there.
    """
    if root.is_file():
        return [root]
    everything = sorted(root.rglob("*.parquet"))
    found = [p for p in everything if p.name.startswith((f"{split}-", f"{split}.")) or p.parent.name == split]
    if not found:
        raise DataError(
            f"{root}: expected parquet files of split {split!r}, got {[p.name for p in everything][:5] or 'no parquet file'}"
        )
    return found


def read_rows(
    root: Path, split: str, *, image_columns: tuple[str, ...] = ("image", "images")
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and the row; a picture comes as an ImageRef that fetches it when it is looked at.

    Raises:
        DataError: No file of the split, or one that is no parquet.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError("reading parquet needs pyarrow: pip install -e '.[datasets]' in a clone of visurf") from error
    for path in parquet_files(root, split):
        try:
            file = parquet.ParquetFile(path)
        except (OSError, arrow.ArrowInvalid) as error:
            raise DataError(f"{path}: cannot be read as parquet ({error})") from error
        with file:
            pictures = [c for c in image_columns if c in file.schema_arrow.names]
            others = [c for c in file.schema_arrow.names if c not in pictures]
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=others)
                for index in range(file.metadata.row_group(group).num_rows):
                    row = {name: table.column(name)[index].as_py() for name in others}
                    row |= {name: ImageRef(ParquetCell(path, group, index, name)) for name in pictures}
                    yield f"{path}: row group {group}, row {index}", row


def picture_of(row: Mapping[str, Any], where: str, *, folder: Path | None = None, name: str = "image") -> ImageRef:
    """The picture of a row, in whatever form `datasets` or a parquet file gives it.

    Raises:
        DataError: The field is missing or holds no picture.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected a dict of columns, got {type(row).__name__}")
    value = row.get(name)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, ImageRef):
        return value
    if isinstance(value, bytes | Image.Image):
        return ImageRef(value)
    if isinstance(value, str) and folder is not None:
        return ImageRef(image_path(folder, value, f"{where}, field {name!r}"))
    raise DataError(f"{where}, field {name!r}: expected a picture, got {type(row.get(name)).__name__}")
