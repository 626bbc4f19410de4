"""The lesion of a dermoscopic picture: one box, with a point in it, as in `visurf.tasks.referring`.

`box_accuracy` is ViSurf's Bbox_Acc: the first box's IoU with the tight box of the true mask is above 0.5.
"""

from __future__ import annotations

from dataclasses import replace

from visurf.tasks import segmentation
from visurf.tasks.referring import REFERRING
from visurf.tasks.task import Metric

LESION = replace(
    REFERRING,
    name="lesion",
    # There always is a lesion, so the prompt need not say what to answer without one.
    default_prompt="published",
    metrics={**segmentation.METRICS, "thresholded_jaccard": Metric("jaccard")},
    headline="box_accuracy",
)
