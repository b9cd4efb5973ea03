"""InfoNCE forward and backward on the CPU: kernel, OpenCLIP's loss, torch.compile, plain PyTorch.

Run with ``pytest bench/test_info_nce.py``; on as many threads as PyTorch takes.
"""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from fedsyn.ops import backend, backends, info_nce
from peers import submodule

SCALE = 14.0
# Batches of ten clients; of one large client; of a server. The last is for the kernel alone.
CLIENTS = [(10, 64, 64), (1, 512, 128)]
SERVER, LARGEST = (1, 8192, 256), (1, 65536, 256)
CHUNK = 512

open_clip = submodule("open_clip", "loss")


def kernel(x, y, scale):
    with backend("cpu"):
        return info_nce(x, y, scale).sum()


def eager(x, y, scale):
    logits = scale * x @ y.mT
    target = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    both = cross_entropy(logits.mT, target) + cross_entropy(logits, target)
    return both / 2 * len(x)


def clip_loss(x, y, scale):
    return open_clip.ClipLoss()(x[0], y[0], scale)


compiled = torch.compile(eager, dynamic=False)
CONTENDERS = {"kernel": kernel, "OpenCLIP": clip_loss, "torch.compile": compiled, "eager": eager}


def operands(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(2, *shape, generator=generator)
    leaves = [t.clone().to(dtype).requires_grad_() for t in normalize(both, dim=-1)]
    return [*leaves, torch.tensor(SCALE, dtype=dtype, requires_grad=True)]


def exact(x, y, scale):
    """Loss and gradients to x and y in float64, a few rows at a time."""
    x, y = x.detach().double(), y.detach().double()
    scale, batch = scale.item(), x.shape[1]
    chunks = [slice(i, i + CHUNK) for i in range(0, batch, CHUNK)]
    rows = torch.cat([(scale * x[:, c] @ y.mT).logsumexp(2) for c in chunks], 1)
    columns = torch.cat([(scale * y[:, c] @ x.mT).logsumexp(2) for c in chunks], 1)
    loss = ((rows + columns) / 2 - scale * (x * y).sum(-1)).mean(-1).sum()
    to_x, to_y = -scale / batch * y, -scale / batch * x
    for c in chunks:
        s = scale * x[:, c] @ y.mT
        weight = (s - rows[:, c, None]).exp_() + s.sub_(columns[:, None, :]).exp_()
        weight *= scale / (2 * batch)
        to_x[:, c] += weight @ y
        to_y += weight.mT @ x[:, c]
    return loss, to_x, to_y


@pytest.fixture(scope="module")
def oracle():
    known = {}

    def get(shape, dtype):
        if (shape, dtype) not in known:
            known[shape, dtype] = exact(*operands(shape, dtype))
        return known[shape, dtype]

    return get


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [*CLIENTS, SERVER, LARGEST], ids=str)
def test_forward_and_backward(benchmark, oracle, name, dtype, shape):
    if name == "kernel" and "cpu" not in backends():
        pytest.skip("the compiled module is absent")
    if name == "OpenCLIP" and (open_clip is None or shape[0] > 1):
        pytest.skip("open_clip_torch is absent" if open_clip is None else "takes one client")
    if shape == LARGEST and (name != "kernel" or dtype != torch.float32):
        pytest.skip("would need tens of GiB" if name != "kernel" else "float32 only, for time")
    leaves = operands(shape, dtype)

    def call():
        loss = CONTENDERS[name](*leaves)
        return loss, *torch.autograd.grad(loss, leaves)

    benchmark.group = f"info_nce {list(shape)} {'fp32' if dtype == torch.float32 else 'bf16'}"
    large = shape[1] >= 8192
    benchmark.pedantic(call, rounds=(1 if shape == LARGEST else 5) if large else 100)
    if shape != LARGEST:
        loss, *gradients = call()
        expected, *exact_gradients = oracle(shape, dtype)
        error = max(
            ((g.double() - e).norm() / e.norm()).item()
            for g, e in zip(gradients[:2], exact_gradients, strict=True)
        )
        benchmark.extra_info["gradient_error"] = error
        benchmark.extra_info["loss_error"] = abs(loss.item() - expected.item())
        if name == "kernel":
            assert error <= (1e-5 if dtype == torch.float32 else 1e-2)
            assert benchmark.extra_info["loss_error"] <= 1e-5 * shape[0]
    elif name == "kernel":
        assert benchmark.extra_info["peak_mib"] <= 1024
