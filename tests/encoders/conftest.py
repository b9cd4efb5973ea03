"""CLIP's libraries look at pictures through torchvision, whose operators they do not use."""

import importlib.util
from pathlib import Path

import torch

OPERATORS = (
    "nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d",
    "_roi_align_backward", "_roi_pool_backward", "_ps_roi_align_backward",
    "_ps_roi_pool_backward", "_deform_conv2d_backward",
)  # fmt: skip


def declared():
    """The names of the operators, where torchvision's own are of another build of torch.

    Package indexes have it for CUDA alone: beside a CPU build of torch its library does not load,
    and its Python refuses to be imported without what the library defines.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return None
    try:
        for library in Path(found.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        names = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            names.define(f"{name}(Tensor x) -> Tensor")
        return names
    return None


KEPT = declared()  # for as long as the tests run
