"""Polygons and run lengths to pixels, exactly as the two rasterisers the data sets were scored with.

Both are emulated in numpy, so that a score does not depend on which native library happens to be installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from visurf.types import DataError, Point, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.uint8]


def decode_counts(text: str) -> tuple[int, ...]:
    """COCO's compressed run lengths: six-bit digits from character 48, little end first, most runs as differences.

    >>> decode_counts("05d0O")
    (0, 5, 20, 4)
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise DataError(f"run lengths hold {character!r}, which is no digit of the compressed form")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise DataError("run lengths end inside a number")
    return tuple(runs)


def fill_coco(polygon: tuple[float, ...], size: Size) -> Mask:
    """One polygon as COCO's mask code fills it.

    The boundary is walked on a grid five times finer; wherever it crosses the middle of a pixel column, the column toggles
    from that row on. Equal to pycocotools pixel by pixel, which a test shows.
    """
    _check_reach(polygon, size)
    fine, (width, height) = 5, size
    vertices = np.trunc(fine * np.asarray(polygon, dtype=np.float64).reshape(-1, 2) + 0.5).astype(np.int64)
    walked = [_walk(start, end) for start, end in zip(vertices, np.roll(vertices, -1, axis=0), strict=True)]
    xs, ys = np.concatenate(walked).T
    moved = np.flatnonzero(np.diff(xs)) + 1
    x_after, x_before = xs[moved], xs[moved - 1]
    column = (np.where(x_after < x_before, x_after, x_after - 1) + 0.5) / fine - 0.5
    row = np.ceil(np.clip((np.minimum(ys[moved], ys[moved - 1]) + 0.5) / fine - 0.5, 0, height))
    hits = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    starts = (column[hits] * height + row[hits]).astype(np.int64)
    toggles = np.bincount(starts, minlength=width * height + 1)[: width * height]
    return (np.cumsum(toggles) % 2).astype(np.uint8).reshape(width, height).T.copy()


def _check_reach(values: Sequence[float], size: Size) -> None:
    # Edges are walked pixel by pixel, so a vertex light-years away would fill the memory.
    if max(map(abs, values), default=0.0) > 10 * max(*size, 100):
        raise DataError(f"a polygon reaches {max(map(abs, values)):g} on a picture of {size[0]} x {size[1]} pixels")


def _walk(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Grid points from start to end, both included, rounded along the shorter axis seen from the lower end of the longer."""
    delta = end - start
    longer = 0 if abs(delta[0]) >= abs(delta[1]) else 1
    length = abs(int(delta[longer]))
    if length == 0:
        return start[None]
    low, high = (start, end) if delta[longer] >= 0 else (end, start)
    steps = np.arange(length + 1)
    points = np.empty((length + 1, 2), dtype=np.int64)
    points[:, longer] = low[longer] + steps
    slope = float(high[1 - longer] - low[1 - longer]) / length
    points[:, 1 - longer] = np.trunc(low[1 - longer] + slope * steps + 0.5).astype(np.int64)
    return points if delta[longer] >= 0 else points[::-1]


def fill_opencv(vertices: tuple[Point, ...], size: Size) -> Mask:
    """One polygon as OpenCV fills it with its one-pixel outline; vertices are truncated to integers.

    Equal to OpenCV pixel by pixel for vertices inside the image, which a test shows.
    """
    _check_reach([value for vertex in vertices for value in vertex], size)
    width, height = size
    mask = np.zeros((height, width), dtype=np.uint8)
    points = [(int(x), int(y)) for x, y in vertices]
    crossings: list[list[int]] = [[] for _ in range(height)]
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        _draw_line(mask, (x0, y0), (x1, y1))
        (top_x, top), (bottom_x, bottom) = sorted([(x0, y0), (x1, y1)], key=lambda p: p[1])
        if top == bottom:
            continue
        # 16 fractional bits, the slope truncated towards zero: the rounding decides which border pixels are in.
        slope = int(((bottom_x - top_x) << 16) / (bottom - top))
        for y in range(max(top, 0), min(bottom, height)):
            crossings[y].append((top_x << 16) + slope * (y - top))
    for y, row in enumerate(crossings):
        row.sort()
        for left, right in zip(row[::2], row[1::2], strict=True):
            mask[y, max((left + 0xFFFF) >> 16, 0) : max((right >> 16) + 1, 0)] = 1
    return mask


def _draw_line(mask: Mask, start: tuple[int, int], end: tuple[int, int]) -> None:
    """An eight-connected line, drawn from left to right; what leaves the image is dropped."""
    (x0, y0), (x1, y1) = sorted([start, end], key=lambda p: p[0]) if start[0] != end[0] else (start, end)
    dx, dy = x1 - x0, y1 - y0
    length, sign = max(dx, abs(dy)), 1 if dy >= 0 else -1
    steps = np.arange(length + 1)
    if dx >= abs(dy):
        xs, ys = x0 + steps, y0 + sign * ((2 * steps * abs(dy) + max(dx - 1, 0)) // max(2 * dx, 1))
    else:
        xs, ys = x0 + (2 * steps * dx + abs(dy) - 1) // (2 * abs(dy)), y0 + sign * steps
    inside = (xs >= 0) & (xs < mask.shape[1]) & (ys >= 0) & (ys < mask.shape[0])
    mask[ys[inside], xs[inside]] = 1
