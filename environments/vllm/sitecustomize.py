"""Declares torchvision's compiled operators where torchvision came without them.

`torchvision.__init__` registers fake kernels for its operators as soon as it is imported and fails where the operators do not
exist, as with a wheel that was built for another torch. The models served here use none of them: a schema is enough. Python
imports this file at start when it lies in site-packages, so that it also holds in the processes that vLLM starts.
"""

import sys
from importlib.abc import MetaPathFinder

_BOX = "int pooled_height, int pooled_width"
_ROI = f"Tensor input, Tensor rois, float spatial_scale, {_BOX}"
_SIZE = "int batch_size, int channels, int height, int width"
_BACK = f"Tensor grad, Tensor rois, float spatial_scale, {_BOX}, {_SIZE}"
_MAPPED = _BACK.replace("Tensor rois", "Tensor rois, Tensor channel_mapping")
_POOLED = _BACK.replace("Tensor rois", "Tensor rois, Tensor argmax")
_DEFORM = (
    "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, int offset_groups, bool use_mask"
)
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"qroi_align({_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward({_BACK}, int sampling_ratio, bool aligned) -> Tensor",
    f"ps_roi_align({_ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward({_MAPPED.replace('pooled_width', 'pooled_width, int sampling_ratio')}) -> Tensor",
    f"roi_pool({_ROI}) -> (Tensor, Tensor)",
    f"_roi_pool_backward({_POOLED}) -> Tensor",
    f"ps_roi_pool({_ROI}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward({_MAPPED}) -> Tensor",
    f"deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, {_DEFORM}) -> Tensor",
    "_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    f"{_DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


class _BeforeTorchvision(MetaPathFinder):
    """Declares the operators once, when torchvision is first looked for: programs without it need not load torch."""

    library = None

    def find_spec(self, name, path=None, target=None):  # noqa: ANN001, ANN202 - the interface's own signature
        """Find nothing, but be there before the finders that do."""
        if name == "torchvision" and self.library is None:
            import torch

            _BeforeTorchvision.library = torch.library.Library("torchvision", "DEF")
            for schema in SCHEMAS:
                self.library.define(schema)
        return None


sys.meta_path.insert(0, _BeforeTorchvision())
