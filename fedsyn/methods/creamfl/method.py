"""CreamFL, contrastive representation ensemble (Yu et al. 2023, ICLR, arXiv 2302.08888).

Everybody has the public pairs. The server and every client have networks of their own, which
nobody else sees; clients hold pairs, or pictures or texts alone.

server: w ← w_0;  g_k, g'_k ← its representations of public pair k
every round:
    send all g to the sampled clients
    client c, E times:
        a pass over its own rows:  pairs by the task, pictures or texts alone by their labels
        a pass over the public pairs:  γ Σ_modality (L_inter + L_intra)
    client c sends of each modality that it has
        w_k z_k and w_k, where z_k represents public pair k
        w_k = e^{z_k·g'_k} / Σ_j e^{z_k·g'_j}        (aggregation = "contrastive")
              1                                      (aggregation = "mean")
    ḡ_k ← Σ_c w_k z_k / Σ_c w_k
    w ← a pass over the public pairs on  κ Σ_modality ‖z_k − ḡ_k‖²
    w ← passes over the public pairs on the task;   g_k, g'_k ← its representations

Losses are those of `fedsyn.methods.creamfl.losses`. Clients have the networks of
``model.variants``, in turn. The mean without L_inter and L_intra is the plain exchange of
representations; with κ = 0 the server learns alone. Chosen otherwise than published:

* The server's first pass on the task follows the first round's clients; from then on the order is
  the paper's, with the model judged after that pass and not before.
* A client computes its own w_k from what it received, so that the sums of several need no more
  memory than one's. What a client does not have it sends as zeros, of weight zero.
* Learning rates are constant and gradients are not clipped. The optimiser of the server remembers
  its moments from round to round, that of a client from pass to pass.
* Squares are summed over the d entries of a representation, not averaged, so that their weight
  beside the task does not depend on d, and κ is 3 (0.3 where the task is answers). Published is
  0.3 of the mean, here κ = 0.3 / d: of 64 entries a 640th of the default (a 64th). With that, the
  server learns retrieval as if it heard nobody, and answers about as well
  (docs/related-methods.md).
* Each term of κ counts once, also where clients hold pairs.
* An objective that looks beyond the batch (`objective.ucch`) has, in every pass, the loss of its
  first.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedsyn import ops, streams
from fedsyn.core import training
from fedsyn.core.batches import epochs
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.training import Loss
from fedsyn.core.wire import Upload, Uploads
from fedsyn.data.settings import Needs
from fedsyn.data.silos import Silo
from fedsyn.methods.base import Method, MethodConfig, Update, present
from fedsyn.methods.creamfl.learners import Architecture, learners, most_parameters
from fedsyn.methods.creamfl.losses import (
    MODALITIES,
    OTHER,
    CreamFLOptions,
    distillation,
    regularisers,
)
from fedsyn.tasks.pairs import PairProblem
from fedsyn.tasks.retrieval import RETRIEVAL
from fedsyn.tasks.vqa import VQA

WEIGHTS = {name: f"{name}.weight" for name in MODALITIES}
MOMENTS = "optimizer."  # before the names of what the server's optimiser remembers


def init(problem: PairProblem, model: Tensor, clients: int) -> Payload:
    """The server's model and its representations ``[n, d]`` of the public pairs."""
    return {"model": model[None]} | _representations(problem, model)


def _representations(problem: PairProblem, model: Tensor) -> Payload:
    return dict(zip(MODALITIES, problem.represent(model, problem.public), strict=True))


def broadcast(state: Payload, ids: tuple[int, ...]) -> Payload:
    """The server's representations, to each client."""
    return {name: state[name].expand(len(ids), -1, -1) for name in MODALITIES}


def rows(problem: PairProblem, silo: Silo) -> np.ndarray:
    """A client's pairs; of one that has none, what it holds of one modality."""
    return silo.pairs if len(silo.pairs) else max(silo.images, silo.texts, key=len)


def client_state(problem: PairProblem, model: Tensor) -> Payload:
    """Room for the client's own model; zeros are one that has not begun."""
    return {"own": model.new_zeros(most_parameters(problem))}


def client(
    problem: PairProblem, received: Payload, state: Payload, cohort: Cohort, config: MethodConfig
) -> Update:
    """Own models learn in turn from own rows and from public pairs, and represent the latter."""
    server = {name: received[name][0] for name in MODALITIES}  # all receive the same
    public, models = problem.features[problem.public], state["own"].clone()
    losses = torch.zeros(len(models), device=models.device)
    sent = {name: torch.zeros_like(received[name]) for name in MODALITIES}
    sent |= {WEIGHTS[name]: sent[name].new_zeros(sent[name].shape[:2]) for name in MODALITIES}
    for learner, positions in learners(problem, cohort):
        part, at = cohort.take(positions), torch.tensor(positions, device=models.device)
        own = models[at, : learner.size]
        begun = own.any(-1, keepdim=True)
        # Networks of one architecture begin alike: their representations can be averaged sooner.
        own = own.where(begun, learner.init(streams.generator(cohort.seed, "model")).to(own))
        own, losses[at] = _train(learner, own, public, server, part, config)
        models[at, : learner.size] = own
        for name, z in _represent(learner, own, public).items():
            weight = weights(z, server[OTHER[name]], config.of(CreamFLOptions))
            sent[name][at], sent[WEIGHTS[name]][at] = weight[..., None] * z, weight
    return Update(Upload(present(cohort, **sent)), {"own": models}, losses)


def _train(
    learner: Architecture,
    start: Tensor,  # [C, P]
    public: Tensor,  # [n, D]
    server: Payload,  # [n, d] each
    cohort: Cohort,
    config: MethodConfig,
) -> tuple[Tensor, Tensor]:  # [C, P], [C]
    """The local training of clients of one architecture, and their loss on own rows."""
    own, rule, models = config.of(CreamFLOptions), config.rule, start
    state, total = rule.init(start), torch.zeros(len(start), device=start.device)
    task, before = learner.loss(cohort, config), _represent(learner, start, public)
    everything = [np.arange(len(public))] * len(start)

    def towards_server(
        params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor
    ) -> Tensor:
        z = learner.represent(params, public[index])
        mine = {name: before[name][clients] for name in z}
        return own.contrast * regularisers(z, server, mine, index, valid, own)

    for turn in range(config.epochs):
        plan = epochs(cohort.rows, config.batch, 1, cohort.streams(f"own.{turn}"))
        models, losses = training.train(models, task, plan, rule, state=state)
        total += losses
        if own.inter or own.intra:
            plan = epochs(everything, config.batch, 1, cohort.streams(f"public.{turn}"))
            models, _ = training.train(models, towards_server, plan, rule, state=state)
    return models, total / config.epochs


def _represent(learner: Architecture, models: Tensor, public: Tensor) -> Payload:
    """Representations ``[C, n, d]`` of the public pairs, by modality."""
    with torch.no_grad():
        return learner.represent(models, public.expand(len(models), -1, -1))


def weights(z: Tensor, others: Tensor, own: CreamFLOptions) -> Tensor:
    """What clients' representations ``z [C, n, d]`` count for, ``[C, n]``.

    ``others [n, d]`` are the server's of the other modality.
    """
    if own.aggregation == "mean":
        return z.new_ones(z.shape[:2])
    return torch.stack([ops.diagonal_log_softmax(one, others, 1.0) for one in z]).exp()


def server(
    problem: PairProblem,
    state: Payload,
    uploads: Uploads,
    config: MethodConfig,
    generator: torch.Generator,
) -> Payload:
    """The server's model after distillation and the task."""
    own, model = config.of(CreamFLOptions), state["model"]
    pairs = np.arange(len(problem.public))
    here = replace(problem.take(problem.public).to(model.device), public=torch.from_numpy(pairs))
    passes = [here.loss(Cohort((0,), (pairs,), 0, 0), config, "server")] * own.server_epochs
    if own.distillation:
        passes.insert(0, _towards_clients(here, uploads.sums, own.distillation))
    rule = config.changed(lr=own.server_lr).rule
    known = {name: state.get(f"{MOMENTS}{name}", zero) for name, zero in rule.init(model).items()}
    moments = {name: value.clone() for name, value in known.items()}
    for loss in passes:
        plan = epochs([pairs], config.batch, 1, [generator])
        model, _ = training.train(model, loss, plan, rule, state=moments)
    kept = {f"{MOMENTS}{name}": value for name, value in moments.items()}
    return {"model": model} | _representations(here, model[0]) | kept


def _towards_clients(problem: PairProblem, sums: Payload, weight: float) -> Loss:
    """κ Σ_modality ‖z − ḡ‖² of a batch of public pairs."""
    features = problem.features
    means = {name: sums[name] / sums[WEIGHTS[name]][:, None] for name in MODALITIES}
    means = {name: value.to(features) for name, value in means.items()}

    def loss(params: Tensor, clients: Tensor, index: Tensor, valid: Tensor, step: Tensor) -> Tensor:
        z = dict(zip(MODALITIES, problem.net.embed(params, features[index]), strict=True))
        return weight * distillation(z, means, index, valid)

    return loss


CREAMFL = Method(
    name="creamfl",
    options={"creamfl": CreamFLOptions},
    defaults={"data": {"public": 0.2}, "partition": {"single_modality": 0.5}},
    with_task={VQA.name: {"method": {"creamfl": {"distillation": 0.3}}}},
    init=init,
    broadcast=broadcast,
    client=client,
    server=server,
    client_state=client_state,
    tasks=(RETRIEVAL, VQA),
    needs=Needs(labels=True, public=True),
    rows=rows,
    sends=(*MODALITIES, *WEIGHTS.values()),
    broadcasts_model=False,
    starts=False,
    extensible=False,
)
