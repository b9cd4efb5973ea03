"""Training all clients in one call gives what training them step by step gives."""

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.ops import backend, backends, threads, train_info_nce
from fedsyn.ops.backends import native
from fedsyn.ops.local_training import OPTIMIZERS, SKIPS

needs_native = pytest.mark.skipif(native() is None, reason="the compiled module is absent")
isas = native().cpu_isas() if native() is not None else ()
every_backend = pytest.mark.parametrize(
    "name", [b for b in ("reference", "cpu") if b in backends()]
)
every_skip = pytest.mark.parametrize("skip", SKIPS)
TOWERS = ((6, 9, 4), (5, 4))
# Adam divides by its second moment: a large eps keeps the rounding of a gradient near zero small.
NUMBERS = {"lr": 0.03, "momentum": 0.7, "weight_decay": 0.1, "eps": 1e-2}


def case(seed, clients=3, steps=4, batch=12, towers=TOWERS, rows=40, skip="none"):
    """Operands in float64: ragged batches, some of them none."""
    draw = torch.Generator().manual_seed(seed)
    size = len(linear_terms(towers, skip))
    width = sum(tower[0] for tower in towers)
    params = torch.randn(clients, size, generator=draw, dtype=torch.float64) / 3
    features = torch.randn(rows, width, generator=draw, dtype=torch.float64)
    index = torch.randint(rows, (steps, clients, batch), generator=draw)
    sizes = torch.randint(2, batch + 1, (steps, clients), generator=draw)
    return params, features, index, sizes * (torch.rand(steps, clients, generator=draw) < 0.8)


def linear_terms(towers, skip):
    """Which of a row's parameters are of the linear terms."""
    own = []
    for tower in towers:
        own += [False] * sum((a + 1) * b for a, b in pairwise(tower))
        own += [True] * (tower[0] * tower[-1] if skip != "none" else 0)
    return torch.tensor(own)


def by_autograd(params, features, index, sizes, towers, scale, head, optimizer, skip="none"):
    """One client after another with torch's own layers, losses and optimisers."""
    rules = {
        "adam": lambda p: torch.optim.Adam(p, 0.03, (0.9, 0.999), 1e-2, 0.1),
        "sgd": lambda p: torch.optim.SGD(p, 0.03, 0.7, weight_decay=0.1),
        "rmsprop": lambda p: torch.optim.RMSprop(p, 0.03, 0.99, 1e-2, 0.1),
    }
    trained, means = [], []
    for client, start in enumerate(params):
        nets, at = [], 0
        for tower in towers:
            layers = []
            for fan_in, fan_out in pairwise(tower):
                layer = torch.nn.Linear(fan_in, fan_out, dtype=torch.float64)
                weight = start[at : at + fan_in * fan_out].view(fan_in, fan_out)
                at += fan_in * fan_out
                layer.weight.data.copy_(weight.T)
                layer.bias.data.copy_(start[at : at + fan_out])
                at += fan_out
                layers += [layer, torch.nn.ReLU()]
            nets.append(torch.nn.ModuleList([torch.nn.Sequential(*layers[:-1])]))
            if skip != "none":
                term = torch.nn.Linear(tower[0], tower[-1], bias=False, dtype=torch.float64)
                size = tower[0] * tower[-1]
                term.weight.data.copy_(start[at : at + size].view(tower[0], tower[-1]).T)
                term.requires_grad_(skip == "trained")
                at += size
                nets[-1].append(term)
        both = torch.nn.ModuleList(nets)
        rule = rules[optimizer]([p for p in both.parameters() if p.requires_grad])
        losses = []
        for rows, size in zip(index[:, client], sizes[:, client].tolist(), strict=True):
            if not size:
                continue
            parts = features[rows[:size]].split([tower[0] for tower in towers], -1)
            sides = zip(nets, parts, strict=True)
            u, v = (sum(module(part) for module in net) for net, part in sides)
            if head == "tanh_unit":
                u, v = u.tanh(), v.tanh()
            if head != "linear":
                u, v = (torch.nn.functional.normalize(x, dim=-1) for x in (u, v))
            logits, own = scale * u @ v.T, torch.arange(size)
            ways = (torch.nn.functional.cross_entropy(s, own) for s in (logits, logits.T))
            loss = sum(ways) / 2
            rule.zero_grad()
            loss.backward()
            rule.step()
            losses.append(loss.item())
        linears = [m for m in both.modules() if isinstance(m, torch.nn.Linear)]
        both = ((m.weight.T.reshape(-1), m.bias) for m in linears)
        flat = [p for pair in both for p in pair if p is not None]
        trained.append(torch.cat(flat).detach())
        means.append(sum(losses) / max(len(losses), 1))
    return torch.stack(trained), torch.tensor(means, dtype=torch.float64)


@every_backend
@pytest.mark.parametrize("head", ["linear", "unit", "tanh_unit"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@every_skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clients_train_as_with_torch(name, head, skip, optimizer, dtype):
    if name == "cpu" and dtype == torch.float64:
        pytest.skip("the reference's")
    params, features, index, sizes = case(1, skip=skip)
    given = (params, features, index, sizes, TOWERS)
    expected, losses = by_autograd(*given, 3.0, head, optimizer, skip)
    start = params.to(dtype)
    with backend(name):
        trained, loss = train_info_nce(
            start, features.to(dtype), index, sizes, TOWERS, 3.0, head=head, skip=skip,
            optimizer=optimizer, **NUMBERS,
        )  # fmt: skip
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    assert trained.dtype == dtype
    torch.testing.assert_close(trained.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(loss.double(), losses, rtol=tolerance, atol=tolerance)
    assert torch.equal(start, params.to(dtype))


@needs_native
@pytest.mark.parametrize("isa", isas)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("towers", [TOWERS, ((130, 70, 33), (17, 33)), ((1, 1), (3, 2, 5, 1))])
@every_skip
def test_every_instruction_set_agrees(isa, skip, optimizer, towers):
    operands = case(2, towers=towers, skip=skip)
    expected, _ = by_autograd(*operands, towers, 2.0, "unit", optimizer, skip)
    params, features, index, sizes = operands
    start, inputs = params.float(), features.float()
    trained, loss = torch.empty_like(start), torch.empty(len(start))
    steps, clients, batch = index.shape
    native().train_info_nce_cpu_float32(
        *(v.data_ptr() for v in (start, inputs, index, sizes, trained, loss)),
        [w for tower in towers for w in tower], [len(tower) for tower in towers], clients,
        start.stride(0), steps, batch, "unit", skip, 2.0, optimizer,
        [0.03, 0.9, 0.999, 0.7, 0.1, 1e-2], 2, isa,
    )  # fmt: skip
    torch.testing.assert_close(trained.double(), expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 99), clients=st.integers(1, 6), steps=st.integers(0, 4),
    batch=st.integers(2, 40), workers=st.integers(1, 4), skip=st.sampled_from(SKIPS),
)  # fmt: skip
def test_a_client_trains_alone_as_in_any_company(seed, clients, steps, batch, workers, skip):
    params, features, index, sizes = case(seed, clients, steps, batch, skip=skip)
    params, features = params.float(), features.float()
    with threads(workers):
        trained, loss = train_info_nce(params, features, index, sizes, TOWERS, 2.0, skip=skip)
    for client in range(clients):
        one = slice(client, client + 1)
        alone = (params[one], features, index[:, one], sizes[:, one])
        mine, own = train_info_nce(*alone, TOWERS, 2.0, skip=skip)
        assert torch.equal(mine[0], trained[client])
        assert torch.equal(own[0], loss[client])


@every_backend
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch", [12, 1100, 2500])  # the kernel adds the gradients of chunks up
def test_a_frozen_term_stays_bit_for_bit_and_all_else_moves(name, optimizer, batch):
    params, features, index, sizes = case(7, steps=3, batch=batch, skip="frozen")
    params, features = params.float(), features.float()
    index[:, :, 0], sizes[:] = 0, batch
    frozen = linear_terms(TOWERS, "frozen")
    params[0, frozen.nonzero()[0]] = -0.0
    rest = (params, features, index, sizes, TOWERS, 2.0)
    with backend(name):
        held, _ = train_info_nce(*rest, skip="frozen", optimizer=optimizer, **NUMBERS)
        freed, _ = train_info_nce(*rest, skip="trained", optimizer=optimizer, **NUMBERS)
    assert torch.equal(held[:, frozen].view(torch.int32), params[:, frozen].view(torch.int32))
    assert held[:, ~frozen].isfinite().all()
    assert not torch.any(held[:, ~frozen] == params[:, ~frozen])
    assert (freed[1:, frozen] != params[1:, frozen]).all()


@every_backend
def test_the_first_step_of_a_frozen_and_of_a_trained_term_moves_the_layers_alike(name):
    params, features, index, sizes = case(8, steps=1, skip="frozen")
    frozen = linear_terms(TOWERS, "frozen")
    rest = (params.float(), features.float(), index, sizes.clamp(min=3), TOWERS, 2.0)
    with backend(name):
        held, loss = train_info_nce(*rest, skip="frozen", **NUMBERS)
        freed, same = train_info_nce(*rest, skip="trained", **NUMBERS)
    assert torch.equal(held[:, ~frozen], freed[:, ~frozen]) and torch.equal(loss, same)


@every_backend
def test_a_client_without_steps_stays(name):
    params, features, index, sizes = case(3)
    sizes[:, 1] = 0
    with backend(name):
        trained, loss = train_info_nce(
            params.float(), features.float(), index, sizes, TOWERS, 2.0, weight_decay=0.5
        )
    assert torch.equal(trained[1], params[1].float()) and loss[1] == 0
    assert not torch.equal(trained[0], params[0].float())


@every_skip
def test_one_model_for_all_may_be_expanded_or_part_of_a_wider_row(skip):
    params, features, index, sizes = case(4, skip=skip)
    params, features = params.float(), features.float()

    def trained(rows):
        return train_info_nce(rows, features, index, sizes, TOWERS, 2.0, skip=skip)[0]

    wider = torch.cat([params, params], 1)[:, : params.shape[1]]
    assert torch.equal(trained(params[:1].expand(3, -1)), trained(params[:1].repeat(3, 1)))
    assert torch.equal(trained(wider), trained(params))


def test_a_broken_feature_shows():
    params, features, index, sizes = case(5)
    features[int(index[0, 0, 0])] = torch.nan
    sizes[0, 0] = 12
    trained, loss = train_info_nce(params.float(), features.float(), index, sizes, TOWERS, 2.0)
    assert loss[0].isnan() and trained[0].isnan().any()


P, X, AT, SIZES = (v.float() if v.is_floating_point() else v for v in case(6))


@pytest.mark.parametrize(
    ("operands", "options", "error", "words"),
    [
        ((P[:2], X, AT, SIZES, TOWERS, 1.0), {}, ValueError, "params (3, 127), got (2, 127)"),
        ((P, X[:, :5], AT, SIZES, TOWERS, 1.0), {}, ValueError, "features (40, 11), got (40, 5)"),
        ((P, X.double(), AT, SIZES, TOWERS, 1.0), {}, TypeError, "one floating dtype"),
        ((P, X, AT.int(), SIZES, TOWERS, 1.0), {}, TypeError, "index of int64"),
        ((P, X, AT + 40, SIZES, TOWERS, 1.0), {}, ValueError, "rows below 40"),
        ((P, X, AT - 40, SIZES, TOWERS, 1.0), {}, ValueError, "rows below 40"),
        ((P, X, AT, SIZES + 12, TOWERS, 1.0), {}, ValueError, "sizes from 0 to 12"),
        ((P, X, AT[0], SIZES, TOWERS, 1.0), {}, ValueError, "index [S, C, B]"),
        ((P, X, AT, SIZES, TOWERS[:1], 1.0), {}, ValueError, "two towers"),
        ((P, X, AT, SIZES, ((6, 9, 4), (5, 3)), 1.0), {}, ValueError, "one output width"),
        ((P, X, AT, SIZES, TOWERS, float("nan")), {}, ValueError, "finite scale"),
        ((P, X, AT, SIZES, TOWERS, 1.0), {"lr": float("inf")}, ValueError, "finite lr"),
        ((P, X, AT, SIZES, TOWERS, 1.0), {"head": "softmax"}, ValueError, "'softmax'"),
        ((P, X, AT, SIZES, TOWERS, 1.0), {"skip": True}, TypeError, "expected skip a word"),
        ((P, X, AT, SIZES, TOWERS, 1.0), {"skip": "half"}, ValueError, "frozen, got 'half'"),
        ((P, X, AT, SIZES, TOWERS, 1.0), {"skip": "frozen"}, ValueError, "(3, 171), got (3, 127)"),
        ((P, X, AT, SIZES, TOWERS, 1.0), {"optimizer": "lion"}, ValueError, "'lion'"),
    ],
)
def test_what_does_not_fit_is_named(operands, options, error, words):
    with pytest.raises(error, match=re.escape(words)):
        train_info_nce(*operands, **options)


@needs_native
def test_the_native_module_refuses_before_it_touches_memory(check_refused):
    changes = [
        ({"clients": -1}, "clients is -1"),
        ({"steps": -1}, "steps is -1"),
        ({"batch": -1}, "batch is -1"),
        ({"widths": [3, 2, 3]}, "as many widths"),
        ({"params": 0}, "null"),
        ({"sizes": 0}, "null"),
        ({"features": 0}, "null"),
        ({"head": "cosine"}, "'cosine' is not"),
        ({"skip": "half"}, "'half' is not"),
        ({"rule": "lion"}, "'lion' is not"),
        ({"numbers": [0.1]}, "six numbers"),
        ({"threads": 0}, "threads is 0"),
        ({"isa": "mmx"}, "'mmx' is unknown"),
    ]
    arguments = {
        **{"params": 8, "features": 8, "index": 8, "sizes": 8, "trained": 8, "loss": 8},
        **{"widths": [3, 2, 3, 2], "lengths": [2, 2], "clients": 1, "stride": 16, "steps": 1},
        **{"batch": 2, "head": "unit", "skip": "none", "scale": 1.0, "rule": "sgd"},
        **{"numbers": [0.0] * 6},
    }
    check_refused(
        [("train_info_nce_cpu_float32", arguments | change, message) for change, message in changes]
    )


def test_it_is_an_operator_like_the_others():
    operator = torch.ops.fedsyn.train_info_nce
    widths, lengths = [6, 9, 4, 5, 4], [3, 2]
    numbers = [1e-3, 0.9, 0.999, 0.0, 0.0, 1e-8]
    torch.library.opcheck(
        operator, (P, X, AT, SIZES, widths, lengths, "unit", "none", 2.0, "adam", numbers)
    )
    compiled = torch.compile(
        lambda p: train_info_nce(p, X, AT, SIZES, TOWERS, 2.0), fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(P)[0], train_info_nce(P, X, AT, SIZES, TOWERS, 2.0)[0])
