"""Public operators: reference, dispatch, registration, autograd; batched over leading axes."""

from fedsyn.ops.backends import backend, backends, instruction_set
from fedsyn.ops.gradient_penalty import gradient_penalty
from fedsyn.ops.info_nce import info_nce
from fedsyn.ops.js_divergence import js_divergence
from fedsyn.ops.kmeans import kmeans
from fedsyn.ops.prototype_nce import prototype_nce

__all__ = [
    "backend",
    "backends",
    "gradient_penalty",
    "info_nce",
    "instruction_set",
    "js_divergence",
    "kmeans",
    "prototype_nce",
]
