"""Referring detection and segmentation."""
from visurf.geometry import Frame, box_centre
from visurf.types import Objects


def render_answer(target: Objects, frame: Frame) -> str:
    """The answer part."""
    points = target.points or tuple(box_centre(b) for b in target.boxes)
    items = []
    for box, point in zip(target.boxes, points, strict=True):
        coordinates = ",".join(str(v) for v in frame.encode_box(box))
        x, y = frame.encode_point(point)
        items.append(f'{{"bbox_2d": [{coordinates}], "point_2d": [{x},{y}]}}')
    return f"<answer>[{', '.join(items)}]</answer>"
