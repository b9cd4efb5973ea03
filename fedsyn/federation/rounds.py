"""A round of a federation as its server sees it, wherever the clients are.

Round 0 is the `start`: sums over all clients give the model that they begin with. In any other
`listen` asks the chosen clients for their round, and `conclude` does what the server does with the
answers. All stand on a `Fleet`: the clients of this process (`fedsyn.federation.local`) or those on
other machines (`fedsyn.deployment`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.extension import Pool, Record, ServerView
from fedsyn.core.judgement import Judgement
from fedsyn.core.payload import nbytes
from fedsyn.federation.checkpoint import State
from fedsyn.federation.client import LOCAL, METHOD, initial_model
from fedsyn.federation.evaluation import evaluate
from fedsyn.federation.federation import Federation
from fedsyn.federation.fleet import Answers, Fleet
from fedsyn.federation.received import Memory, PartMemory
from fedsyn.federation.records import Row
from fedsyn.federation.selection.base import Heard, share_of
from fedsyn.federation.store import ClientStore
from fedsyn.profiling import phase
from fedsyn.tasks.base import Start


def begin(fed: Federation, received: Memory) -> State:
    """The state before the start."""
    run, number = fed.config.run, len(fed.silos)
    server = fed.plan.method.init(fed.problem, _initial(fed), number)
    learnt = fed.config.plugins.selection.begin(number, run)
    return State(server, received, selection=learnt)


def _initial(fed: Federation) -> Tensor:
    return initial_model(fed.problem.net, fed.config.run.seed).to(fed.device)


def memory(fed: Federation, folder: Path) -> Memory:
    """What the server is to remember of uploads, in memory or in files of a folder."""
    number, budget = len(fed.silos), fed.config.engine.memory << 20
    nobody = torch.zeros(number, dtype=torch.bool)
    parts = {METHOD: PartMemory(nobody)}
    for extension, _ in fed.plan.extensions:
        path = folder / f"uploads-{extension.name}.safetensors"
        store = ClientStore(number, path, budget, fed.device)
        parts[extension.name] = PartMemory(nobody.clone(), library=store)
    return parts


def start(fed: Federation, state: State, fleet: Fleet) -> Row:
    """Find the model that all begin with, and evaluate it.

    Where a linear map of the features is to be it, or an extension asks for them, clients add up
    moments of their pairs; the validators say which of the models that these give they like best.
    Changes ``state``; returns the round's record without its times.
    """
    costs, record, judgement = _Costs(), Record(), None
    candidates: Sequence[Start] = ()
    linear = fed.plan.method.starts and fed.problem.asks_moments
    if linear or any(extension.begin is not None for extension, _ in fed.plan.extensions):
        with phase("start"):
            sums = fleet.moments()
            costs.up, costs.down = sums.bytes_up, sums.bytes_down
            for extension, own in fed.plan.extensions:
                if extension.begin is not None:
                    begun = extension.begin(sums.total, own, fed.config.run.seed)
                    state.extensions[extension.name] = begun
            if linear:
                candidates = fed.problem.starts(_initial(fed), sums.total)
    if candidates:
        chosen, record = candidates[0], {"start": candidates[0].name}
        if len(candidates) > 1:
            with phase("start"):
                judgement = fleet.judge([one.model[None] for one in candidates], fed.validators)
            costs.add(judgement)
            best = judgement.best(fed.validators)
            chosen, judgement = candidates[best], judgement.of([best])
            record = {"start": chosen.name}
        state.server = fed.plan.method.init(fed.problem, chosen.model, len(fed.silos))
    state.round_number = 0
    row: Row = {"round": 0, "clients": [], "losses": {}, "server": record}
    _judge_and_evaluate(fed, state, fleet, costs, judgement, row)
    return row | {"bytes_up": costs.up, "bytes_down": costs.down}


def listen(fed: Federation, state: State, fleet: Fleet, judge: bool = False) -> Answers:
    """What the clients of the next round answer; they ``judge`` the model before it."""
    ids = chosen(fed, state)
    return replace(fleet.train(state, ids, judge), asked=ids)


def chosen(fed: Federation, state: State) -> tuple[int, ...]:
    """The clients of the next round, ascending."""
    run, clients = fed.config.run, len(fed.silos)
    number = share_of(clients, run.fraction)
    choose = fed.config.plugins.selection.choose
    return choose(state.selection, clients, number, state.round_number + 1, run)


@dataclass
class _Costs:
    """What a round's exchanges weigh, as they are made."""

    up: int = 0
    down: int = 0

    def add(self, what: Answers | Judgement) -> None:
        """Count the bytes of an exchange."""
        self.up, self.down = self.up + what.bytes_up, self.down + what.bytes_down


@dataclass
class _Judges:
    """Lets a round's clients, and the validators, judge models."""

    fed: Federation
    fleet: Fleet
    ids: Sequence[int]
    costs: _Costs

    def __call__(self, models: Sequence[Tensor], shares: Sequence[float] = ()) -> Judgement:
        """By all of them, so that the model that stays need not be sent again."""
        everyone = sorted({*self.ids, *self.fed.validators})
        judgement = self.fleet.judge(models, everyone, shares)
        self.costs.add(judgement)
        return judgement


def conclude(fed: Federation, state: State, fleet: Fleet, answers: Answers) -> Row:
    """Aggregate, let the extensions do their part, evaluate.

    Changes ``state``; returns the round's record without its times. Its loss on held-out pairs is
    missing where the fleet is to be asked with the next round, whose clients do not depend on it.
    """
    config, number = fed.config, state.round_number + 1
    costs = _Costs()
    costs.add(answers)
    with phase("aggregate"):
        generator = streams.generator(config.run.seed, "aggregate", number)
        state.server = fed.plan.method.server(
            fed.problem, state.server, answers.uploads[METHOD], fed.plan.config, generator
        )
    record: Record = {}
    judgement: Judgement | None = None
    # (A diverged model embeds nothing; the caller looks for it and says so.)
    if bool(state.server["model"].isfinite().all()):
        judges = _Judges(fed, fleet, answers.ids, costs)
        record, judgement = _extended(fed, state, answers, judges, number)
    state.round_number = number
    row: Row = {"round": number, "clients": list(answers.ids)}
    row["losses"] = _losses(answers)
    if answers.missing:
        row["missing"] = list(answers.missing)
    if record:
        row["server"] = record
    _judge_and_evaluate(fed, state, fleet, costs, judgement, row)
    if learn := config.plugins.selection.learn:
        told = Heard(
            number, answers.asked, answers.ids, answers.report.losses[LOCAL],
            answers.report.sizes, row["losses"]["holdout"],
        )  # fmt: skip
        state.selection = learn(state.selection, told)
    return row | {"bytes_up": costs.up, "bytes_down": costs.down}


def _judge_and_evaluate(
    fed: Federation,
    state: State,
    fleet: Fleet,
    costs: _Costs,
    judgement: Judgement | None,
    row: Row,
) -> None:
    """Enter into a round's row what clients and test rows say of its model.

    Clients are asked unless they have said it, or are to be asked with the next round.
    """
    config, number = fed.config, state.round_number
    with phase("evaluate"):
        model = state.server["model"]
        can_wait = config.plugins.selection.learn is None and number < config.rounds
        now = fed.plan.method.broadcasts_model and not (fleet.late and can_wait)
        if judgement is None and now:
            judgement = fleet.judge([model], fed.validators)
            if can_wait:  # whoever does the next round is sent the model anyway
                others = set(fed.validators) - set(chosen(fed, state))
                judgement = replace(judgement, bytes_down=len(others) * nbytes({"": model[:1]}))
            costs.add(judgement)
        row["losses"]["holdout"] = None
        if judgement is not None:
            enter(fed, row, judgement)
        if number % config.run.evaluate_every == 0 or number == config.rounds:
            row["metrics"], row["client_metrics"] = evaluate(fed, model)


def enter(fed: Federation, row: Row, judgement: Judgement) -> None:
    """Enter into a round's row what the validators think of its model, the last one judged."""
    row["losses"]["holdout"] = judgement.mean(-1, fed.validators)
    recall = judgement.recall(-1, fed.validators)
    if recall is not None:
        row["holdout_recall@10"] = recall


def _extended(
    fed: Federation, state: State, answers: Answers, judges: _Judges, number: int
) -> tuple[Record, Judgement | None]:
    """Let each extension's server part look at its uploads and at the model, one after another.

    What they say of the round, and what clients think of the model that it ends with, where they
    were asked for it.
    """
    record: Record = {}
    judgement: Judgement | None = None
    for extension, config in fed.plan.extensions:
        if extension.server is None:
            continue
        model = state.server["model"]
        view = ServerView(
            problem=fed.problem,
            model=model,
            uploads=answers.uploads[extension.name],
            method=answers.uploads[METHOD],
            state=state.extensions.get(extension.name, {}),
            config=config,
            seed=fed.config.run.seed,
            round_number=number,
            fraction=fed.config.run.fraction,
            stack=fed.stack,
            judge=judges,
            pooled=_pooled(fed) if extension.pooled else None,
        )
        result = extension.server(view)
        state.server["model"], state.extensions[extension.name] = result.model, result.state
        if result.judgement is not None or result.model is not model:
            judgement = result.judgement
        if both := record.keys() & result.record.keys():
            raise ValueError(
                f"extension {extension.name!r} records {sorted(both)[0]!r}, as another does"
            )
        record |= result.record
    return record, judgement


def _pooled(fed: Federation) -> Pool:
    """All clients' training pairs, fetched as they are asked for."""
    rows = np.concatenate([silo.pairs for silo in fed.silos])

    def take(at: Tensor) -> Tensor:
        problem, (places,) = fed.near([rows[at.numpy()]])
        return problem.features[torch.from_numpy(places).to(fed.device)]

    return Pool(len(rows), take)


def _losses(answers: Answers) -> dict[str, float | None]:
    """Mean losses, by the pairs that each client holds; the method's by those it trained on."""
    report = answers.report
    return {
        name: _mean(value, report.sizes if name == LOCAL else report.pairs)
        for name, value in report.losses.items()
    }


def _mean(values: Tensor, weights: Tensor) -> float:
    total = float(weights.sum())
    if total == 0:
        return float("nan")
    return float((values.double().cpu() * weights.double()).sum()) / total
