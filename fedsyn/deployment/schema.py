"""The form of everything that travels, from a round of one client whose pairs are noise.

So what either side is sent can be checked against what the run, as configured, sends. What a
plug-in marks as repeated (`fedsyn.settings.sections.Repeated`) is done once: that changes numbers,
not forms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedsyn import streams
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload, named
from fedsyn.core.wire import Intake, Upload, form_of, send
from fedsyn.federation.client import METHOD, Assignment, Plan, answer, initial_model
from fedsyn.federation.federation import Federation
from fedsyn.federation.received import REPORT, Report
from fedsyn.settings.sections import shortest

PAIRS = 256  # enough for as many prototypes as there can be


@dataclass(frozen=True)
class Schema:
    """Tensors like those that travel; what they hold means nothing.

    Attributes
    ----------
    model : dict of str to Tensor
        What every client receives in every round, by ``part/name``: the model, of most methods.
    more : dict of str to Tensor
        What clients receive beside it in some rounds, at its largest.
    uploads : mapping of str to Upload
        What a client sends, by part.
    losses : mapping of str to tuple of str
        Names of losses, by part.
    """

    plan: Plan
    model: Payload
    more: Payload
    uploads: Mapping[str, Upload]
    losses: Mapping[str, tuple[str, ...]]

    def parts(self, round_number: int) -> tuple[str, ...]:
        """What clients send uploads of in a round."""
        return (METHOD, *(name for name, _, _ in self.plan.taking_part(round_number)))

    def message(
        self, round_number: int, clients: int, new: Mapping[str, int], together: bool
    ) -> Payload:
        """The form of what so many clients send in a round, by ``part/kind/name``.

        Parameters
        ----------
        round_number, clients : int
        new : mapping of str to int
            By part, how many of them the server has no upload of.
        together : bool
            Whether their sums are added up.
        """
        form: Payload = {}
        for part in self.parts(round_number):
            exposed = self.plan.exposed if part == METHOD else ()
            one = send(self.uploads[part], torch.tensor([True]), exposed)
            form |= named(part, form_of(one, clients, new[part], together))
        count = torch.zeros(clients, dtype=torch.long)
        names = [name for part in self.parts(round_number) for name in self.losses[part]]
        losses = {name: torch.zeros(clients) for name in names}
        return form | named(REPORT, Report(count, count, losses).sent())


def schema(fed: Federation) -> Schema:
    """Run one round of one client."""
    plan = _brief(fed.plan)
    stream = streams.generator(0, "schema")
    cohort = Cohort((0,), (np.arange(PAIRS),), plan.seed, 1)
    problem = fed.problem.noise(PAIRS, stream)
    state = plan.method.init(problem, initial_model(problem.net, plan.seed), len(fed.silos))
    broadcast = {
        extension.name: extension.largest(problem, own)
        for extension, own in plan.extensions
        if extension.largest is not None
    }
    received = {METHOD: plan.method.broadcast(state, (0,)), **broadcast}
    found = answer(plan, Assignment(cohort, problem, received, torch.tensor([False]), {}))
    intake = Intake({})
    intake.take((0,), send(found.uploads[METHOD], torch.tensor([True]), plan.exposed))
    state = plan.method.server(problem, state, intake.uploads(), plan.config, stream)
    down = plan.method.broadcast(state, (0,))
    model = {"model": down.pop("model")} if plan.method.broadcasts_model else {}
    more = named(METHOD, down)
    for name, payload in broadcast.items():
        more |= named(name, payload)
    losses = {part: tuple(mine) for part, mine in found.losses.items()}
    return Schema(fed.plan, named(METHOD, model), more, found.uploads, losses)


def _brief(plan: Plan) -> Plan:
    """The same, as short as can be, where every extension takes part."""
    extensions = tuple(
        (replace(extension, takes_part=lambda config, round_number: True), shortest(own))
        for extension, own in plan.extensions
    )
    return replace(plan, config=shortest(plan.config), extensions=extensions)
