"""InfoNCE forward and backward on the CPU: kernel, OpenCLIP's loss, torch.compile, plain PyTorch.

Run with ``pytest bench/test_info_nce.py``; on as many threads as PyTorch takes.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn import ops
from formulas import exact_info_nce, forced, info_nce
from peers import submodule

Shape = tuple[int, int, int]
Oracle = Callable[[Shape, torch.dtype], tuple[Tensor, Tensor, Tensor]]

SCALE = 14.0
# Batches of ten clients; of one large client; of a server. The last is for the kernel alone.
CLIENTS = [(10, 64, 64), (1, 512, 128)]
SERVER, LARGEST = (1, 8192, 256), (1, 65536, 256)

open_clip = submodule("open_clip", "loss")


on_cpu = forced("cpu", ops.info_nce)


def kernel(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return on_cpu(x, y, scale).sum()


def clip_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    assert open_clip is not None
    loss: Tensor = open_clip.ClipLoss()(x[0], y[0], scale)
    return loss


CONTENDERS = {
    "kernel": kernel,
    "OpenCLIP": clip_loss,
    "torch.compile": torch.compile(info_nce, dynamic=False),
    "eager": info_nce,
}


def operands(shape: Shape, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(2, *shape, generator=generator)
    leaves = [t.clone().to(dtype).requires_grad_() for t in normalize(both, dim=-1)]
    return [*leaves, torch.tensor(SCALE, dtype=dtype, requires_grad=True)]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    known: dict[tuple[Shape, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    def get(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        if (shape, dtype) not in known:
            x, y, _ = operands(shape, dtype)
            known[shape, dtype] = exact_info_nce(x, y, SCALE)
        return known[shape, dtype]

    return get


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [*CLIENTS, SERVER, LARGEST], ids=str)
def test_forward_and_backward(
    benchmark: BenchmarkFixture, oracle: Oracle, name: str, dtype: torch.dtype, shape: Shape
) -> None:
    if name == "OpenCLIP" and (open_clip is None or shape[0] > 1):
        pytest.skip("open_clip_torch is absent" if open_clip is None else "takes one client")
    if shape == LARGEST and (name != "kernel" or dtype != torch.float32):
        pytest.skip("would need tens of GiB" if name != "kernel" else "float32 only, for time")
    leaves = operands(shape, dtype)

    def call() -> tuple[Tensor, ...]:
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
