"""Whether an extension keeps what `fedsyn.core.extension.Extension` promises."""

from collections.abc import Callable
from typing import Any

import torch

from fedsyn.conformance.claims import Claims, check_options, copied
from fedsyn.conformance.method import check_alone, check_upload
from fedsyn.conformance.runs import check_runs
from fedsyn.conformance.world import World, world
from fedsyn.core.cohort import Cohort
from fedsyn.core.extension import ClientResult, ClientView, Extension
from fedsyn.core.payload import Payload
from fedsyn.data.moments import pair_moments
from fedsyn.data.preprocessing import add
from fedsyn.federation.client import initial_model
from fedsyn.settings.sections import Section
from fedsyn.tasks import TASKS


def check_extension(extension: Extension, /, **settings: Any) -> None:
    """Try an extension on the clients of federated averaging, and in small runs.

    What is checked: it is active with these settings; shapes; clients computed together are as they
    are alone; nothing that was received is changed, no global stream of random numbers is drawn
    from; whole runs give the same bits when they are resumed, and over nodes where the extension
    can be imported.

    Parameters
    ----------
    extension : Extension
    **settings
        Sections of a configuration, the extension's own among them, with which it is active.

    Raises
    ------
    PluginError
        That says in one sentence what is not so.
    """
    claims = Claims(f"extension {extension.name!r}")
    check_options(claims, extension)
    tasks = [task for task in TASKS if issubclass(task.problem, extension.problem)]
    claims.hold(bool(tasks), f"there is no task with a {extension.problem.__name__}")
    with world(claims, settings, task=tasks[0], extensions=(extension,)) as there:
        mine = [(one, own) for one, own in there.config.active if one.name == extension.name]
        claims.hold(bool(mine), "it is not active; expected settings with which it is")
        for one, own in mine:
            if one.client is not None:
                _Clients(claims, there, one, one.client, own).check()
        check_runs(claims, there)


class _Clients:
    """The extension's client part, on the clients of a world."""

    def __init__(
        self,
        claims: Claims,
        there: World,
        extension: Extension,
        client: Callable[..., ClientResult],
        own: Section,
    ) -> None:
        self._claims, self._extension, self._client, self._own = claims, extension, client, own
        self._problem, self._cohort = there.fed.problem, there.cohort
        self._training, self._seed = there.config.method, there.config.run.seed
        self._model = initial_model(self._problem.net, self._seed)

    def check(self) -> None:
        """Make all claims of the client part, one after another."""
        claims, clients = self._claims, len(self._cohort.ids)
        together = self._round(self._cohort)
        check_upload(claims, together.upload, clients)
        for name, loss in claims.payload("losses", together.losses, clients).items():
            claims.hold(loss.dim() == 1, f"loss {name!r} is {list(loss.shape)}; expected [C]")
        for place, client in enumerate(self._cohort.ids):
            why = f"between a stack of clients and client {client} alone"
            alone = self._round(self._cohort.take([place]))
            check_alone(claims, alone.upload, together.upload, place, why)
            for name, value in alone.state.items():
                claims.close(f"state {name!r}", value[0], together.state[name][place], why)

    def _round(self, cohort: Cohort) -> ClientResult:
        claims, clients = self._claims, len(cohort.ids)
        state = self._state(cohort)
        received, sent = self._model.expand(clients, -1).clone(), self._broadcast()
        before, told = received.clone(), copied(sent)
        view = ClientView(self._problem, cohort, received, self._own, self._training, None, sent)
        with claims.own_streams("client"):
            result = self._client(view, copied(state))
        claims.hold(
            isinstance(result, ClientResult),
            f"client returns a {type(result).__name__}; expected a ClientResult",
        )
        claims.hold(torch.equal(received, before), "client changes the model that it received")
        claims.unchanged("what was broadcast,", told, sent)
        claims.kept(claims.payload("a client's state", result.state, clients), state)
        return result

    def _broadcast(self) -> Payload:
        """What it broadcasts before round 1."""
        one, state = self._extension, Payload()
        if one.begin is not None:
            total = add(pair_moments(self._problem.features, self._cohort.rows))
            with self._claims.own_streams("begin"):
                state = one.begin(total, self._own, self._seed)
        return {} if one.broadcast is None else one.broadcast(state)

    def _state(self, cohort: Cohort) -> Payload:
        if self._extension.client_state is None:
            return {}
        with self._claims.own_streams("client_state"):
            found = self._extension.client_state(
                self._problem, self._model, cohort, self._own, False
            )
        return self._claims.payload("client_state's", found, len(cohort.ids))
