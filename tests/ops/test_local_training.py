"""Training all clients in one call gives what training them step by step gives."""

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsyn.ops import backend, backends, threads, train_info_nce
from fedsyn.ops.backends import native
from fedsyn.ops.local_training import OPTIMIZERS

needs_native = pytest.mark.skipif(native() is None, reason="the compiled module is absent")
isas = native().cpu_isas() if native() is not None else ()
every_backend = pytest.mark.parametrize(
    "name", [b for b in ("reference", "cpu") if b in backends()]
)
TOWERS = ((6, 9, 4), (5, 4))
# Adam divides by its second moment: a large eps keeps the rounding of a gradient near zero small.
NUMBERS = {"lr": 0.03, "momentum": 0.7, "weight_decay": 0.1, "eps": 1e-2}


def case(seed, clients=3, steps=4, batch=12, towers=TOWERS, rows=40):
    """Operands in float64: ragged batches, some of them none."""
    draw = torch.Generator().manual_seed(seed)
    size = sum((a + 1) * b for tower in towers for a, b in pairwise(tower))
    width = sum(tower[0] for tower in towers)
    params = torch.randn(clients, size, generator=draw, dtype=torch.float64) / 3
    features = torch.randn(rows, width, generator=draw, dtype=torch.float64)
    index = torch.randint(rows, (steps, clients, batch), generator=draw)
    sizes = torch.randint(2, batch + 1, (steps, clients), generator=draw)
    return params, features, index, sizes * (torch.rand(steps, clients, generator=draw) < 0.8)


def by_autograd(params, features, index, sizes, towers, scale, head, optimizer):
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
            nets.append(torch.nn.Sequential(*layers[:-1]))
        both = torch.nn.ModuleList(nets)
        rule, losses = rules[optimizer](both.parameters()), []
        for rows, size in zip(index[:, client], sizes[:, client].tolist(), strict=True):
            if not size:
                continue
            parts = features[rows[:size]].split([tower[0] for tower in towers], -1)
            u, v = (net(part) for net, part in zip(nets, parts, strict=True))
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
        flat = [p for m in linears for p in (m.weight.T.reshape(-1), m.bias)]
        trained.append(torch.cat(flat).detach())
        means.append(sum(losses) / max(len(losses), 1))
    return torch.stack(trained), torch.tensor(means, dtype=torch.float64)


@every_backend
@pytest.mark.parametrize("head", ["linear", "unit", "tanh_unit"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clients_train_as_with_torch(name, head, optimizer, dtype):
    if name == "cpu" and dtype == torch.float64:
        pytest.skip("the reference's")
    params, features, index, sizes = case(1)
    expected, losses = by_autograd(params, features, index, sizes, TOWERS, 3.0, head, optimizer)
    start = params.to(dtype)
    with backend(name):
        trained, loss = train_info_nce(
            start, features.to(dtype), index, sizes, TOWERS, 3.0, head=head, optimizer=optimizer,
            **NUMBERS,
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
def test_every_instruction_set_agrees(isa, optimizer, towers):
    operands = case(2, towers=towers)
    expected, _ = by_autograd(*operands, towers, 2.0, "unit", optimizer)
    params, features, index, sizes = operands
    start, inputs = params.float(), features.float()
    trained, loss = torch.empty_like(start), torch.empty(len(start))
    steps, clients, batch = index.shape
    native().train_info_nce_cpu_float32(
        *(v.data_ptr() for v in (start, inputs, index, sizes, trained, loss)),
        [w for tower in towers for w in tower], [len(tower) for tower in towers], clients,
        start.stride(0), steps, batch, "unit", 2.0, optimizer, [0.03, 0.9, 0.999, 0.7, 0.1, 1e-2],
        2, isa,
    )  # fmt: skip
    torch.testing.assert_close(trained.double(), expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 99), clients=st.integers(1, 6), steps=st.integers(0, 4),
    batch=st.integers(2, 40), workers=st.integers(1, 4),
)  # fmt: skip
def test_a_client_trains_alone_as_in_any_company(seed, clients, steps, batch, workers):
    params, features, index, sizes = case(seed, clients, steps, batch)
    params, features = params.float(), features.float()
    with threads(workers):
        trained, loss = train_info_nce(params, features, index, sizes, TOWERS, 2.0)
    for client in range(clients):
        one = slice(client, client + 1)
        alone = (params[one], features, index[:, one], sizes[:, one])
        mine, own = train_info_nce(*alone, TOWERS, 2.0)
        assert torch.equal(mine[0], trained[client])
        assert torch.equal(own[0], loss[client])


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


def test_one_model_for_all_may_be_expanded_or_part_of_a_wider_row():
    params, features, index, sizes = case(4)
    params, features = params.float(), features.float()
    rest = (features, index, sizes, TOWERS, 2.0)
    same, _ = train_info_nce(params[:1].expand(3, -1), *rest)
    copied, _ = train_info_nce(params[:1].repeat(3, 1), *rest)
    wider, _ = train_info_nce(torch.cat([params, params], 1)[:, : params.shape[1]], *rest)
    assert torch.equal(same, copied)
    assert torch.equal(wider, train_info_nce(params, *rest)[0])


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
        ({"rule": "lion"}, "'lion' is not"),
        ({"numbers": [0.1]}, "six numbers"),
        ({"threads": 0}, "threads is 0"),
        ({"isa": "mmx"}, "'mmx' is unknown"),
    ]
    arguments = {
        **{"params": 8, "features": 8, "index": 8, "sizes": 8, "trained": 8, "loss": 8},
        **{"widths": [3, 2, 3, 2], "lengths": [2, 2], "clients": 1, "stride": 16, "steps": 1},
        **{"batch": 2, "head": "unit", "scale": 1.0, "rule": "sgd", "numbers": [0.0] * 6},
    }
    check_refused(
        [("train_info_nce_cpu_float32", arguments | change, message) for change, message in changes]
    )


def test_it_is_an_operator_like_the_others():
    operator = torch.ops.fedsyn.train_info_nce
    widths, lengths = [6, 9, 4, 5, 4], [3, 2]
    numbers = [1e-3, 0.9, 0.999, 0.0, 0.0, 1e-8]
    torch.library.opcheck(
        operator, (P, X, AT, SIZES, widths, lengths, "unit", 2.0, "adam", numbers)
    )
    compiled = torch.compile(
        lambda p: train_info_nce(p, X, AT, SIZES, TOWERS, 2.0), fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(P)[0], train_info_nce(P, X, AT, SIZES, TOWERS, 2.0)[0])
