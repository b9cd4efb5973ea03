"""Whether an objective keeps what `fedsyn.objectives.base.Objective` promises."""

from typing import Any

import torch
from torch import Tensor

from fedsyn.conformance.claims import Claims, check_options
from fedsyn.conformance.runs import check_runs
from fedsyn.conformance.world import World, world
from fedsyn.federation.client import initial_model
from fedsyn.objectives.base import Objective, ObjectiveConfig
from fedsyn.objectives.pairs.base import PairBatch, Sizes
from fedsyn.tasks import TASKS

SIZES = Sizes(image=4, text=3, code=5, hashing=False)
VALID = (6, 3, 2)  # rows of each client in a batch


def check_objective(objective: Objective, /, **settings: Any) -> None:
    """Try an objective in small federations of each task that it is of.

    What is checked: a loss for each client, finite, with finite gradients; padding has no say;
    clients trained together are as they are alone, and one without rows stays as it is; no global
    stream of random numbers is drawn from; whole runs give the same bits when they are resumed, and
    over nodes where the objective can be imported.

    Parameters
    ----------
    objective : Objective
    **settings
        Sections of a configuration, ``objective={"temperature": 0.2}``, where it needs other than
        the defaults.

    Raises
    ------
    PluginError
        That says in one sentence what is not so.
    """
    claims = Claims(f"objective {objective.name!r}")
    check_options(claims, objective)
    tasks = [task for task in TASKS if getattr(objective, task.protocol) is not None]
    claims.hold(bool(tasks), "it builds nothing: expected pairs, views, classes or halves")
    for task in tasks:
        with world(claims, settings, objective=objective, task=task) as there:
            config = there.config.objective
            if task.protocol == "pairs":
                _check_pairs(claims, objective, config)
            if task.protocol == "classes":
                _check_classes(claims, objective, config)
            check_training(claims, there)
            check_runs(claims, there)


def _check_pairs(claims: Claims, objective: Objective, config: ObjectiveConfig) -> None:
    """The loss of a batch, by itself."""
    if objective.pairs is None:
        return
    stream = torch.Generator().manual_seed(0)
    with claims.own_streams("pairs"):
        loss = objective.pairs(config, SIZES)
        named = loss.parameters(torch.Generator().manual_seed(1))
    clients, rows = len(VALID), max(VALID)
    params = {
        name: value[None].expand(clients, *value.shape)
        for name, value in claims.payload("parameters", named).items()
    }
    valid = torch.arange(rows) < torch.tensor(VALID)[:, None]

    def draw(*shape: int) -> Tensor:
        return torch.randn(clients, rows, *shape, generator=stream)

    def unit(value: Tensor) -> Tensor:
        return torch.nn.functional.normalize(value, dim=-1)

    image, text = unit(draw(SIZES.code)), unit(draw(SIZES.code))
    pairs = draw(SIZES.image + SIZES.text)

    def value(image: Tensor, text: Tensor, pairs: Tensor) -> Tensor:
        with claims.own_streams("the loss"):
            return loss(params, PairBatch(image, text, pairs, valid))

    leaf_image, leaf_text = image.clone().requires_grad_(), text.clone().requires_grad_()
    found = value(leaf_image, leaf_text, pairs)
    _check_loss(claims, found, (leaf_image, leaf_text))
    if objective.draws(config):
        return
    claims.close("the loss", value(image, text, pairs), found.detach(), "when it is asked again")
    shown = valid[..., None]
    image, text = image.where(shown, image.flip(-1)), text.where(shown, text.roll(1, -1))
    padded = value(image, text, pairs.where(shown, 1.0))
    claims.close("the loss", padded, found.detach(), "with other rows where valid is False")


def _check_classes(claims: Claims, objective: Objective, config: ObjectiveConfig) -> None:
    """The loss of logits, by itself."""
    if objective.classes is None:
        return
    stream = torch.Generator().manual_seed(0)
    with claims.own_streams("classes"):
        loss = objective.classes(config)
    clients, rows, labels = len(VALID), max(VALID), 4
    logits = torch.randn(clients, rows, labels, generator=stream)
    label = torch.randint(labels, (clients, rows), generator=stream)
    valid = torch.arange(rows) < torch.tensor(VALID)[:, None]
    leaf = logits.clone().requires_grad_()
    with claims.own_streams("the loss"):
        found = loss(leaf, label, valid)
    _check_loss(claims, found, (leaf,))
    with claims.own_streams("the loss"):
        other = loss(logits.where(valid[..., None], 9.0), label.where(valid, -1), valid)
    claims.close("the loss", other, found.detach(), "with other rows where valid is False")


def _check_loss(claims: Claims, found: Tensor, leaves: tuple[Tensor, ...]) -> None:
    clients = len(VALID)
    claims.hold(
        isinstance(found, Tensor) and found.shape == (clients,),
        f"the loss of {clients} clients is {list(getattr(found, 'shape', ()))}; expected "
        f"[{clients}]",
    )
    claims.finite("the loss", found)
    with claims.calling("the loss's gradient"):
        slopes = torch.autograd.grad(found.sum(), leaves, allow_unused=True)
    for slope in slopes:
        claims.hold(slope is not None, "the loss does not depend on what the model makes of a row")
        if slope is not None:
            claims.finite("the loss's gradient", slope)


def check_training(claims: Claims, there: World) -> None:
    """A local training and the criterion on held-out rows, of clients together and alone."""
    problem, cohort, config = there.fed.problem, there.cohort, there.config.method
    model = initial_model(problem.net, there.config.run.seed)
    clients = len(cohort.ids)
    start = model.expand(clients, -1)

    def train(positions: list[int]) -> tuple[Tensor, Tensor]:
        with claims.own_streams("a local training"):
            return problem.train(start[: len(positions)], cohort.take(positions), config)

    trained, losses = train(list(range(clients)))
    claims.finite("a trained model", trained)
    claims.rows("losses of a local training", losses, clients)
    rows = [cohort.rows[place] for place in range(clients)]
    with claims.own_streams("the criterion"):
        judged, counted, _ = problem.held_out(start, rows, config.batch)
    claims.rows("criteria", judged, clients)
    for place, size in enumerate(cohort.sizes):
        why = f"between a stack of clients and client {place} ({size} rows) alone"
        alone, loss = train([place])
        claims.close("the trained model", alone[0], trained[place], why)
        claims.close("the loss", loss[0], losses[place], why)
        if size == 0:
            claims.close("the model", trained[place], model, "though its client has no rows")
        with claims.own_streams("the criterion"):
            one, count, _ = problem.held_out(start[:1], rows[place : place + 1], config.batch)
        claims.close("the criterion", one[0], judged[place], why)
        claims.close("the number of rows judged", count[0], counted[place], why)
