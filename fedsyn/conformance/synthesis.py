"""Whether generators, filters and server steps keep what their families promise."""

from typing import Any

import torch
from torch import Tensor

from fedsyn.conformance.claims import Claims, check_options, copied
from fedsyn.conformance.runs import check_runs
from fedsyn.conformance.world import World, world
from fedsyn.core.payload import Payload
from fedsyn.federation.client import initial_model
from fedsyn.settings.loading import over
from fedsyn.settings.plugins import Tree
from fedsyn.synthesis import prototypes
from fedsyn.synthesis.filters import Filter
from fedsyn.synthesis.generators.base import Generator, GeneratorTraining
from fedsyn.synthesis.scores import CandidateScores, GlobalPrototypes
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.synthesis.sources import GIVEN
from fedsyn.synthesis.steps.base import ServerStep

ON: Tree = {"synthesis": {"enabled": True}}
CANDIDATES, GLOBAL = 40, 4


def check_generator(generator: Generator, /, **settings: Any) -> None:
    """Try a generator on small clients, and in small runs with synthesis.

    What is checked: shapes; pairs depend on their own rows of noise and prototypes alone; clients
    computed together are as they are alone; training changes the state in place and keeps its form;
    no global stream of random numbers is drawn from; whole runs give the same bits when they are
    resumed, and over nodes where the generator can be imported.

    Parameters
    ----------
    generator : Generator
    **settings
        Sections of a configuration, ``synthesis={"noise": 8}``, where it needs other than the
        defaults.

    Raises
    ------
    PluginError
        That says in one sentence what is not so.
    """
    claims = Claims(f"generator {generator.name!r}")
    check_options(claims, generator)
    with world(claims, over(ON, settings), generator=generator) as there:
        _Generators(claims, there, generator).check()
        check_runs(claims, there)


class _Generators:
    """A generator on the clients of a world."""

    def __init__(self, claims: Claims, there: World, generator: Generator) -> None:
        self._claims, self._generator = claims, generator
        self._config: SynthesisConfig = there.config.synthesis
        self._problem: Any = there.fed.problem
        self._cohort = there.cohort
        self._model = initial_model(self._problem.net, there.config.run.seed)

    def check(self) -> None:
        """Make all claims of the generator, one after another."""
        together = list(range(len(self._cohort.ids)))
        state, sent = self._round(together)
        self._check_alone(state, sent)
        self._check_sample(sent)

    def _round(self, positions: list[int]) -> tuple[Payload, Payload]:
        """What these clients keep after a round, and what they send."""
        claims, cohort = self._claims, self._cohort.take(positions)
        features, clients = self._problem.features, len(positions)
        given = prototypes.fit(features, cohort, self._config.changed(directions="own"))
        state = {"trained": torch.zeros(clients, dtype=torch.long)}
        with claims.own_streams("prepare"):
            made = self._generator.prepare(state, features, cohort, self._config)
        state |= claims.payload("prepare's", made, clients) | given
        before = {name: (value.shape, value.dtype) for name, value in state.items()}
        able = (state["counts"].sum(-1) > 0) & (torch.tensor(cohort.sizes) > 0)
        training = GeneratorTraining(
            features, cohort, able, self._config, self._problem.net,
            self._model.expand(clients, -1),
        )  # fmt: skip
        with claims.own_streams("train"):
            losses = self._generator.train(state, training)
        for name, value in claims.payload("losses", losses, clients).items():
            claims.hold(value.dim() == 1, f"loss {name!r} is {list(value.shape)}; expected [C]")
        after = {name: (value.shape, value.dtype) for name, value in state.items()}
        claims.hold(before == after, "training changes the form of what clients keep")
        with claims.own_streams("upload"):
            sent = claims.payload("upload's", self._generator.upload(state), clients)
        known = {name: state[name] for name in GIVEN}
        for name, value in sent.items():
            claims.hold(name not in known, f"{name!r} is sent already")
            claims.finite(f"upload {name!r}", value)
        return state, {**known, **sent}

    def _check_alone(self, state: Payload, sent: Payload) -> None:
        for place, client in enumerate(self._cohort.ids):
            why = f"between a stack of clients and client {client} alone"
            alone, message = self._round([place])
            for name, value in alone.items():
                self._claims.close(f"state {name!r}", value[0], state[name][place], why)
            for name, value in message.items():
                self._claims.close(f"upload {name!r}", value[0], sent[name][place], why)

    def _check_sample(self, sent: Payload) -> None:
        claims, stream = self._claims, torch.Generator().manual_seed(0)
        clients, rows = len(self._cohort.ids), 6
        width = self._problem.features.shape[1]
        noise = torch.randn(clients, rows, self._config.noise, generator=stream)
        prototype = torch.randn(clients, rows, width, generator=stream)
        before = copied(sent)

        def sample(part: Payload, noise: Tensor, prototype: Tensor) -> Tensor:
            with claims.own_streams("sample"):
                made = self._generator.sample(part, noise, prototype, self._config)
            shape = (*prototype.shape[:2], width)
            claims.hold(
                isinstance(made, Tensor) and made.shape == shape,
                f"sample makes {list(getattr(made, 'shape', ()))}; expected {list(shape)}",
            )
            claims.finite("what is sampled", made)
            return made

        made = sample(sent, noise, prototype)
        claims.unchanged("what clients have sent,", before, sent)
        order = torch.randperm(rows, generator=stream)
        claims.close(
            "a pair", sample(sent, noise[:, order], prototype[:, order]), made[:, order],
            "where other rows come before it; expected each to depend on its own alone",
        )  # fmt: skip
        first = {name: value[:1] for name, value in sent.items()}
        claims.close(
            "a pair", sample(first, noise[:1], prototype[:1]), made[:1],
            "where its client is alone",
        )  # fmt: skip


def check_filter(rule: Filter, /, **settings: Any) -> None:
    """Try a filter on random scores, and in small runs with synthesis.

    What is checked: what is kept are positions of candidates, ascending, each once, the same for
    the same generator; of one candidate, and of candidates with equal scores; whole runs as for
    `check_generator`.

    Parameters
    ----------
    rule : Filter
    **settings
        Sections of a configuration.

    Raises
    ------
    PluginError
        That says in one sentence what is not so.
    """
    claims = Claims(f"filter {rule.name!r}")
    check_options(claims, rule)
    with world(claims, over(ON, settings), filter=rule) as there:
        config = there.config.synthesis
        for number, spread in ((CANDIDATES, 1.0), (CANDIDATES, 0.0), (1, 1.0)):
            stream = torch.Generator().manual_seed(0)
            scores = CandidateScores(
                prototype=torch.randint(GLOBAL, (number,), generator=stream),
                divergence=spread * torch.rand(number, generator=stream),
                agreement=spread * torch.rand(number, generator=stream),
                realism=spread * torch.rand(number, generator=stream),
            )
            mass = 1 + torch.arange(GLOBAL, dtype=torch.float64)
            points = torch.randn(GLOBAL, 5, generator=stream)
            _check_selected(claims, rule, scores, GlobalPrototypes(points, mass), config)
        check_runs(claims, there)


def _check_selected(
    claims: Claims,
    rule: Filter,
    scores: CandidateScores,
    globals_: GlobalPrototypes,
    config: Any,
) -> None:
    number = len(scores.prototype)
    twice = []
    for _ in range(2):
        with claims.own_streams("select"):
            found = rule.select(scores, globals_, config, torch.Generator().manual_seed(3))
        claims.hold(
            isinstance(found, Tensor) and found.dtype == torch.long and found.dim() == 1,
            f"select returns {getattr(found, 'dtype', type(found).__name__)}; expected long [n]",
        )
        inside = bool(((found >= 0) & (found < number)).all())
        claims.hold(inside, f"select keeps positions beyond the {number} candidates")
        claims.hold(bool((found.diff() > 0).all()), "positions are not ascending, each once")
        twice.append(found)
    claims.hold(torch.equal(*twice), "select keeps others for the same generator")


def check_server_step(step: ServerStep, /, **settings: Any) -> None:
    """Try a server step in small runs with synthesis.

    What is checked: whole runs as for `check_generator`, in which the step changes the model.

    Parameters
    ----------
    step : ServerStep
    **settings
        Sections of a configuration.

    Raises
    ------
    PluginError
        That says in one sentence what is not so.
    """
    claims = Claims(f"server step {step.name!r}")
    check_options(claims, step)
    with world(claims, over(ON, settings), server_step=step) as there:
        check_runs(claims, there)
