"""Whether a federated method keeps what `fedsyn.methods.base.Method` promises."""

from typing import Any

import torch

from fedsyn.conformance.claims import Claims, check_options, copied
from fedsyn.conformance.runs import check_runs
from fedsyn.conformance.world import World, world
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Intake, Sum, Upload, Uploads, send
from fedsyn.federation.client import initial_model
from fedsyn.methods.base import Method, Update
from fedsyn.tasks import TASKS


def check_method(method: Method[Any], /, **settings: Any) -> None:
    """Try a method in small federations of each task that it can learn.

    Clients have different numbers of rows, one has a single row and one has none. What is checked:
    shapes; clients computed together are as they are alone; nothing that was passed is changed, no
    global stream of random numbers is drawn from; whole runs give the same bits when they are
    resumed, and over nodes where the method can be imported.

    Parameters
    ----------
    method : Method
    **settings
        Sections of a configuration, ``method={"lr": 0.1}``, where it needs other than the defaults.

    Raises
    ------
    PluginError
        That says in one sentence what is not so.
    """
    claims = Claims(f"method {method.name!r}")
    check_options(claims, method)
    for task in method.tasks or (TASKS.default,):
        with world(claims, settings, method=method, task=task) as there:
            _Suite(claims, there).check()
            check_runs(claims, there)


class _Suite:
    """The claims of one method in one world."""

    def __init__(self, claims: Claims, there: World) -> None:
        self._claims, self._fed = claims, there.fed
        self._method, self._config = there.fed.plan.method, there.fed.plan.config
        self._cohort, self._problem = there.cohort, there.fed.problem
        self._model = initial_model(self._problem.net, there.config.run.seed)
        sizes = self._cohort.sizes
        self._empty = [place for place, size in enumerate(sizes) if size == 0]

    def check(self) -> None:
        """Make all claims of the method, one after another."""
        server = self._begin()
        received = self._broadcast(server)
        kept = self._client_state(self._cohort)
        update = self._client(self._cohort, received, kept)
        self._check_update(update, kept)
        self._check_alone(received, kept, update)
        self._check_empty(update)
        self._check_server(server, update)

    def _begin(self) -> Payload:
        model = self._model.clone()
        with self._claims.own_streams("init"):
            found = self._method.init(self._problem, model, len(self._fed.silos))
        state = self._claims.payload("init's state", found)
        self._claims.hold("model" in state, "init's state has no 'model'; expected [M, P]")
        shape = list(state["model"].shape)
        self._claims.hold(
            len(shape) == 2 and shape[0] in (1, len(self._fed.silos)) and shape[1] == len(model),
            f"init's 'model' is {shape}; expected [1, {len(model)}], or a row a client",
        )
        return state

    def _broadcast(self, server: Payload) -> Payload:
        before, ids = copied(server), self._cohort.ids
        with self._claims.own_streams("broadcast"):
            found = self._method.broadcast(server, ids)
        received = self._claims.payload("broadcast's", found, len(ids))
        self._claims.unchanged("the server's state", before, server)
        self._claims.hold(
            not self._method.broadcasts_model or "model" in received,
            "broadcast sends no 'model'; expected one, or broadcasts_model = False",
        )
        return received

    def _client_state(self, cohort: Cohort) -> Payload:
        if self._method.client_state is None:
            return {}
        with self._claims.own_streams("client_state"):
            found = self._method.client_state(self._problem, self._model.clone())
        one = self._claims.payload("client_state's", found)
        return {
            name: value.expand(len(cohort.ids), *value.shape).clone() for name, value in one.items()
        }

    def _client(self, cohort: Cohort, received: Payload, kept: Payload) -> Update:
        before = copied(received)
        with self._claims.own_streams("client"):
            update = self._method.client(
                self._problem, received, copied(kept), cohort, self._config
            )
        self._claims.hold(
            isinstance(update, Update),
            f"client returns a {type(update).__name__}; expected an Update",
        )
        self._claims.unchanged("what clients receive,", before, received)
        return update

    def _check_update(self, update: Update, kept: Payload) -> None:
        claims, clients = self._claims, len(self._cohort.ids)
        check_upload(claims, update.upload, clients)
        claims.hold(
            set(update.upload.sums) == set(self._method.sends),
            f"clients send the sums {sorted(update.upload.sums)} and sends = "
            f"{sorted(self._method.sends)}",
        )
        claims.rows("losses", update.losses, clients)
        claims.hold(update.losses.dim() == 1, f"losses are {list(update.losses.shape)}")
        state = claims.payload("a client's state", update.state, clients)
        claims.kept(state, kept)

    def _check_alone(self, received: Payload, kept: Payload, update: Update) -> None:
        """Each client on its own, against its row of the stack."""
        for place, client in enumerate(self._cohort.ids):
            here = slice(place, place + 1)
            alone = self._client(
                self._cohort.take([place]),
                {name: value[here] for name, value in received.items()},
                {name: value[here] for name, value in kept.items()},
            )
            rows = len(self._cohort.rows[place])
            why = f"between a stack of clients and client {client} ({rows} rows) alone"
            check_alone(self._claims, alone.upload, update.upload, place, why)
            for name, value in alone.state.items():
                self._claims.close(f"state {name!r}", value, update.state[name][here], why)
            self._claims.close("the loss", alone.losses, update.losses[here], why)

    def _check_empty(self, update: Update) -> None:
        """Who has nothing to train on has no say."""
        for name, one in update.upload.sums.items():
            self._claims.hold(
                not (one.weighted and one.weight[self._empty].any()),
                f"sum {name!r} gives weight to a client that has no rows; expected 0",
            )

    def _check_server(self, server: Payload, update: Update) -> None:
        ids = self._cohort.ids
        state = self._served(server, self._uploads(ids, update.upload), "server")
        claims = self._claims
        claims.hold("model" in state, "server's state has no 'model'")
        claims.hold(
            state["model"].shape == server["model"].shape,
            f"server's 'model' is {list(state['model'].shape)}; it was "
            f"{list(server['model'].shape)}",
        )
        for name, value in state.items():
            claims.finite(f"server's {name!r}", value)
        for place in self._empty[:1]:  # nobody who was heard has trained
            uploads = self._uploads((ids[place],), _row(update.upload, place))
            state = self._served(server, uploads, "server, of a client without rows alone,")
            claims.finite("server's 'model', of a client without rows alone,", state["model"])

    def _uploads(self, ids: tuple[int, ...], upload: Upload) -> Uploads:
        intake = Intake({})
        intake.take(ids, send(upload, torch.ones(len(ids), dtype=torch.bool)))
        return intake.uploads()

    def _served(self, server: Payload, uploads: Uploads, what: str) -> Payload:
        before = copied(server)
        generator = torch.Generator().manual_seed(0)
        with self._claims.own_streams(what):
            found = self._method.server(self._problem, server, uploads, self._config, generator)
        self._claims.unchanged("the server's state", before, server)
        return self._claims.payload("server's state", found)


def check_upload(claims: Claims, upload: object, clients: int) -> None:
    """What a chunk of clients sends."""
    if not isinstance(upload, Upload):
        claims.hold(False, f"clients send a {type(upload).__name__}; expected an Upload")
        return
    for name, one in upload.sums.items():
        claims.hold("/" not in name, f"sum {name!r} has a '/' in its name")
        claims.hold(isinstance(one, Sum), f"sum {name!r} is a {type(one).__name__}; expected a Sum")
        claims.rows(f"sum {name!r}", one.value, clients)
        claims.finite(f"sum {name!r}", one.value)
        claims.hold(
            one.weight.shape == (clients,) and one.weight.dtype == torch.float64,
            f"the weight of {name!r} is {one.weight.dtype} {list(one.weight.shape)}; expected "
            f"float64 [{clients}]",
        )
        claims.hold(
            bool((one.weight >= 0).all() and one.weight.isfinite().all()),
            f"the weight of {name!r} is {one.weight.tolist()}; expected numbers from 0",
        )
    for name, value in claims.payload("own", upload.own, clients).items():
        claims.finite(f"own {name!r}", value)
    names = {*upload.sums, *upload.own}
    claims.hold(
        len(names) == len(upload.sums) + len(upload.own),
        "a sum and a client's own part have one name",
    )
    for name in (*upload.once, *upload.half):
        claims.hold(name in names, f"{name!r} is to be sent once or as float16, and is not sent")


def check_alone(claims: Claims, alone: Upload, together: Upload, place: int, why: str) -> None:
    """What a client sends alone, against the row at its place of what a stack of clients sends."""
    for what, one, other in (
        ("sums", alone.sums, together.sums), ("own parts", alone.own, together.own)
    ):  # fmt: skip
        claims.hold(
            one.keys() == other.keys(), f"the {what} {sorted(one)} become {sorted(other)} {why}"
        )
    for name, sent in alone.sums.items():
        stacked = together.sums[name]
        claims.close(f"sum {name!r}", sent.value[0], stacked.value[place], why)
        claims.close(f"weight of {name!r}", sent.weight[0], stacked.weight[place], why)
    for name, value in alone.own.items():
        claims.close(f"own {name!r}", value[0], together.own[name][place], why)


def _row(upload: Upload, place: int) -> Upload:
    """The upload of the client at a place."""
    here = slice(place, place + 1)

    sums = {
        name: Sum(one.value[here], one.weight[here], one.weighted)
        for name, one in upload.sums.items()
    }
    own = {name: value[here] for name, value in upload.own.items()}
    return Upload(sums, own, upload.once, upload.half)
