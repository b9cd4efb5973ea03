"""Public operators: reference, dispatch, registration, autograd; batched over leading axes."""

from fedsyn.ops.backends import backend, backends, instruction_set, threads
from fedsyn.ops.critic_step import CriticStep, critic_loss, critic_step
from fedsyn.ops.diagonal_log_softmax import diagonal_log_softmax
from fedsyn.ops.gradient_penalty import gradient_penalty, gradient_penalty_of
from fedsyn.ops.info_nce import info_nce
from fedsyn.ops.js_divergence import js_divergence
from fedsyn.ops.js_filter import js_assign, js_filter
from fedsyn.ops.js_nearest import js_nearest
from fedsyn.ops.kmeans import kmeans
from fedsyn.ops.local_training import train_info_nce
from fedsyn.ops.mlp import mlp
from fedsyn.ops.prototype_nce import prototype_nce
from fedsyn.ops.quota import select_quota
from fedsyn.ops.ranking import average_precision, pack_bits, partner_rank, top_k

__all__ = [
    "CriticStep",
    "average_precision",
    "backend",
    "backends",
    "critic_loss",
    "critic_step",
    "diagonal_log_softmax",
    "gradient_penalty",
    "gradient_penalty_of",
    "info_nce",
    "instruction_set",
    "js_assign",
    "js_divergence",
    "js_filter",
    "js_nearest",
    "kmeans",
    "mlp",
    "pack_bits",
    "partner_rank",
    "prototype_nce",
    "select_quota",
    "threads",
    "top_k",
    "train_info_nce",
]
