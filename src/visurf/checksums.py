"""Checksums of the files of a folder, in a list that ``sha256sum -c`` reads as well."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LIST = "SHA256SUMS"
_THREADS = 4


def files_in(folder: Path) -> list[str]:
    """Names of all files below a folder but the list itself, sorted, with forward slashes."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p != folder / LIST)


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of some files, in hexadecimal, by name."""
    listed = list(names)
    # Hashing leaves Python's lock.
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(listed, pool.map(lambda name: _checksum(folder / name), listed), strict=True))


def write_list(folder: Path, sums: Mapping[str, str]) -> None:
    """Write the list, one line per file."""
    (folder / LIST).write_text("".join(f"{value}  {name}\n" for name, value in sorted(sums.items())))


def read_list(folder: Path) -> dict[str, str]:
    """The list of a folder, by name.

    Raises:
        ValueError: It is missing or is no such list.
    """
    try:
        lines = (folder / LIST).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{LIST} cannot be read ({error})") from error
    if not lines or any(len(line) < 67 or line[64:66] != "  " for line in lines):
        raise ValueError(f"{LIST} is no list of checksums")
    return {line[66:]: line[:64] for line in lines}


def differences(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """What of some listed files is not as it was written; empty where all is well."""
    found = []
    present = [name for name in expected if (folder / name).is_file()]
    found += [f"{name} is missing" for name in expected if name not in present]
    try:
        sums = checksums(folder, present)
    except OSError as error:
        return [*found, f"{error.filename} cannot be read ({error.strerror})"]
    return [*found, *(f"{name} is not what was written" for name in present if sums[name] != expected[name])]


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
