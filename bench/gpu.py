"""The operators on a GPU against their peers and their ceilings: a table, and a result file.

Times are medians of CUDA events; before every call a buffer larger than the cache is overwritten,
so that operands come from memory. Every contender is checked against float64 before it is timed.
A ceiling is the time that the operator's bytes or floating-point operations would take at the rates
that a large copy and a large matrix product reach on the same card in the same run.

No figure of this file has been measured yet; `bench/gpu.sh` builds, tests and runs it.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import results
from fedsyn import ops
from fedsyn.ops.js_divergence import js_divergence_reference
from formulas import SLOPE, exact_info_nce, forced, gradient_penalty, info_nce
from machine import facts
from peers import submodule
from results import Row

Call = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Machine:
    """Rates that this card reaches."""

    bandwidth: float  # bytes read and written per second by a copy
    products: dict[torch.dtype, float]  # floating-point operations per second


@dataclass(frozen=True)
class Case:
    """One operator at one size."""

    operator: str
    size: str
    calls: dict[str, Call]  # contenders by name, ours first; each gives what `exact` gives
    exact: Call  # in float64
    bound: float  # of our relative errors
    bytes: float = 0.0  # that must be moved
    flops: float = 0.0  # that must be done
    dtype: torch.dtype = torch.float32
    rows: int | None = None  # compared: all, or the first so many of every result
    peers: dict[str, float] = field(default_factory=dict)  # targets: times faster than a contender


def milliseconds(call: Callable[[], object], budget_s: float = 1.0) -> float:
    """Median time of a call."""
    flush = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")

    def once() -> float:
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    once()
    first = once()
    repetitions = int(min(max(budget_s * 1e3 / max(first, 1e-3), 3), 100))
    return statistics.median(once() for _ in range(repetitions))


def rates() -> Machine:
    """Measure this card."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copied = 2 * source.numel() / (milliseconds(partial(target.copy_, source)) * 1e-3)
    del source, target
    products = {}
    for dtype, size in ((torch.bfloat16, 8192), (torch.float32, 4096)):
        a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
        products[dtype] = 2 * size**3 / (milliseconds(partial(torch.matmul, a, b)) * 1e-3)
    return Machine(copied, products)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return torch.randn(*shape, device="cuda", generator=generator)


def differentiated(loss: Callable[..., Tensor], *leaves: Tensor) -> Call:
    """The summed loss and its gradients to the leaves."""

    def run() -> tuple[Tensor, ...]:
        total = loss(*leaves).sum()
        return total, *torch.autograd.grad(total, leaves)

    return run


def in_float64(loss: Callable[..., Tensor], *leaves: Tensor) -> Call:
    return differentiated(loss, *(leaf.detach().double().requires_grad_() for leaf in leaves))


# ---- The operators -----------------------------------------------------------------------------


def info_nce_cases() -> Iterator[Case]:
    clip = submodule("open_clip", "loss")
    inf = submodule("inf_cl", "flash")
    scale = 14.0

    def eager(x: Tensor, y: Tensor) -> Tensor:
        return info_nce(x, y, scale)

    for dtype, batch, width in (
        (torch.bfloat16, 8192, 256),
        (torch.bfloat16, 32_768, 512),
        (torch.float32, 8192, 256),
    ):
        x, y = (
            normalize(draw(1, batch, width, seed=s), dim=-1).to(dtype).requires_grad_()
            for s in (1, 2)
        )
        calls = {
            "triton": forced("triton", differentiated(partial(ops.info_nce, scale=scale), x, y)),
            "eager": differentiated(eager, x, y),
            "torch.compile": differentiated(torch.compile(eager, dynamic=False), x, y),
        }
        if clip is not None:
            loss = clip.ClipLoss()
            factor = torch.tensor(scale, device="cuda", dtype=dtype)

            def clip_loss(a: Tensor, b: Tensor, loss: Any = loss, scale: Tensor = factor) -> Tensor:
                found: Tensor = loss(a[0], b[0], scale)
                return found

            calls["OpenCLIP"] = differentiated(clip_loss, x, y)
        if inf is not None and width <= 256:

            def both(a: Tensor, b: Tensor) -> Tensor:
                one: Tensor = inf.cal_flash_loss(a[0], b[0], scale=scale)
                other: Tensor = inf.cal_flash_loss(b[0], a[0], scale=scale)
                return (one.mean() + other.mean()) / 2

            calls["Inf-CL"] = differentiated(both, x, y)
        yield Case(
            "info_nce",
            f"B={batch} D={width} {str(dtype).removeprefix('torch.')}",
            calls,
            partial(exact_info_nce, x, y, scale),
            1e-2 if dtype == torch.bfloat16 else 1e-5,
            flops=8.0 * batch**2 * width,
            dtype=dtype,
            peers={"OpenCLIP": 3.0, "Inf-CL": 3.0},
        )


def prototype_nce_cases() -> Iterator[Case]:
    scale = 10.0
    for dtype, rows, k, width in (
        (torch.bfloat16, 1_000_000, 100, 256),
        (torch.float32, 100_000, 240, 128),
        (torch.bfloat16, 100_000, 1000, 512),
    ):
        x = normalize(draw(rows, width), dim=-1).to(dtype).requires_grad_()
        p = normalize(draw(k, width, seed=1), dim=-1).to(dtype).requires_grad_()
        generator = torch.Generator(device="cuda").manual_seed(2)
        target = torch.randint(k, (rows,), device="cuda", generator=generator)

        def eager(a: Tensor, b: Tensor, target: Tensor = target) -> Tensor:
            return cross_entropy(scale * a @ b.T, target)

        def ours(a: Tensor, b: Tensor, target: Tensor = target) -> Tensor:
            return ops.prototype_nce(a, b, target, scale)

        yield Case(
            "prototype_nce",
            f"N={rows} K={k} D={width} {str(dtype).removeprefix('torch.')}",
            {
                **{name: forced(name, differentiated(ours, x, p)) for name in ("cuda", "triton")},
                "eager": differentiated(eager, x, p),
                "torch.compile": differentiated(torch.compile(eager, dynamic=False), x, p),
            },
            in_float64(eager, x, p),
            1e-2 if dtype == torch.bfloat16 else 1e-5,
            bytes=2.0 * x.numel() * x.element_size(),
            flops=6.0 * rows * k * width,
            dtype=dtype,
        )


def js_divergence_cases() -> Iterator[Case]:
    liger = submodule("liger_kernel", "ops.jsd")
    compiled = torch.compile(js_divergence_reference, dynamic=False)
    for rows, k in ((1_000_000, 24), (1_000_000, 100), (100_000, 1000)):
        p, q = (draw(rows, k, seed=s).softmax(-1).requires_grad_() for s in (1, 2))
        calls = {
            "cuda": forced("cuda", differentiated(ops.js_divergence, p, q)),
            "eager": differentiated(js_divergence_reference, p, q),
            "torch.compile": differentiated(compiled, p, q),
        }
        if liger is not None:  # takes logarithms, and averages over rows

            def jsd(a: Tensor, b: Tensor) -> Tensor:
                value: Tensor = liger.LigerJSDFunction.apply(a.log(), b.log(), None, 0.5, -100)
                return value * len(a)

            def summed(p: Tensor = p, q: Tensor = q) -> tuple[Tensor, ...]:
                return (jsd(p, q).sum(),)

            calls["Liger"] = summed
        yield Case(
            "js_divergence",
            f"N={rows} K={k}",
            calls,
            in_float64(js_divergence_reference, p, q),
            1e-5,
            bytes=4.0 * rows * (6 * k + 2),  # forward reads both, backward reads and writes both
        )


def divergence_to_prototypes(x: Tensor, y: Tensor, px: Tensor, py: Tensor, scale: float) -> Tensor:
    p, q = (scale * x @ px.mT).softmax(-1), (scale * y @ py.mT).softmax(-1)
    return js_divergence_reference(p, q)


def js_assign_cases() -> Iterator[Case]:
    rows, width, k, scale = 1_000_000, 128, 240, 10.0
    x, y = (normalize(draw(rows, width, seed=s), dim=-1) for s in (1, 2))
    px, py = (normalize(draw(k, width, seed=s), dim=-1) for s in (3, 4))
    compiled = torch.compile(divergence_to_prototypes, dynamic=False)

    def ours() -> tuple[Tensor, ...]:
        return (ops.js_assign(x, y, px, py, scale)[0],)

    few = (x[:4096].double(), y[:4096].double(), px.double(), py.double(), scale)
    yield Case(
        "js_assign",
        f"N={rows} D={width} K={k}",
        {
            **{name: forced(name, ours) for name in ("cuda", "triton")},
            "eager": lambda: (divergence_to_prototypes(x, y, px, py, scale),),
            "torch.compile": lambda: (compiled(x, y, px, py, scale),),
        },
        lambda: (divergence_to_prototypes(*few),),
        1e-4,
        bytes=8.0 * rows * width,
        flops=4.0 * rows * k * width,
        rows=4096,
    )


def least_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Minimum over clients, a few of them at a time."""
    least = torch.full_like(p[:, 0], torch.inf)
    for part in q.split(10):
        least = torch.minimum(least, js_divergence_reference(p[:, None], part).amin(1))
    return least


def js_nearest_cases() -> Iterator[Case]:
    rows, clients, k = 1_000_000, 100, 100
    dirichlet = torch.distributions.Dirichlet(torch.full((k,), 0.3, device="cuda"))
    torch.manual_seed(0)
    q = dirichlet.sample((clients,))
    p = 0.7 * q[torch.randint(clients, (rows,), device="cuda")] + 0.3 * dirichlet.sample((rows,))
    compiled = torch.compile(least_divergence, dynamic=False)
    yield Case(
        "js_nearest",
        f"N={rows} C={clients} K={k}",
        {
            **{
                name: forced(name, lambda: (ops.js_nearest(p, q)[0],))
                for name in ("cuda", "triton")
            },
            "eager": lambda: (torch.cat([least_divergence(s, q) for s in p.split(50_000)]),),
            "torch.compile": lambda: (torch.cat([compiled(s, q) for s in p.split(50_000)]),),
        },
        lambda: (least_divergence(p[:4096].double(), q.double()),),
        1e-4,
        bytes=4.0 * rows * k,
        flops=2.0 * rows * clients * k,
        rows=4096,
        peers={"torch.compile": 3.0},
    )


def gradient_penalty_cases() -> Iterator[Case]:
    clients, batch, widths = 100, 64, (128, 256, 256, 1)
    x = draw(clients, batch, widths[0])
    weights = [
        (draw(clients, a, b, seed=i) / a**0.5).requires_grad_()
        for i, (a, b) in enumerate(pairwise(widths))
    ]
    biases = [torch.zeros(clients, 1, b, device="cuda") for b in widths[1:]]

    def loop(*layers: Tensor) -> Tensor:
        each = [
            gradient_penalty(x[c], [w[c] for w in layers], [b[c] for b in biases])
            for c in range(clients)
        ]
        return torch.stack(each)

    def stacked(*layers: Tensor) -> Tensor:
        return gradient_penalty(x, list(layers), biases)

    def ours(*layers: Tensor) -> Tensor:
        return ops.gradient_penalty(x, list(layers), biases, SLOPE)

    def exact() -> tuple[Tensor, ...]:
        wide = [w.detach().double().requires_grad_() for w in weights]
        total = gradient_penalty(x.double(), wide, [b.double() for b in biases]).sum()
        return total, *torch.autograd.grad(total, wide)

    plain = differentiated(ours, *weights)
    yield Case(
        "gradient_penalty",
        f"C={clients} B={batch} {'-'.join(map(str, widths))}",
        {
            "CUDA graph": captured(plain),
            "kernel": plain,
            "loop of autograd": differentiated(loop, *weights),
            "stacked autograd": differentiated(stacked, *weights),
        },
        exact,
        1e-4,  # cuBLAS may take tf32 where the user allows it; here it is not allowed
        flops=8.0 * clients * batch * sum(a * b for a, b in pairwise(widths)),
        peers={"loop of autograd": 20.0},
    )


def kmeans_cases() -> Iterator[Case]:
    for clients, rows, width, k in ((100, 500, 128, 24), (1, 1_000_000, 128, 240)):
        x = draw(clients, rows, width)

        def run(x: Tensor = x, k: int = k) -> tuple[Tensor, ...]:
            streams = [torch.Generator().manual_seed(c) for c in range(len(x))]
            centroids, assignment, _ = ops.kmeans(x, k, streams)
            index = assignment[..., None].expand_as(x)
            return ((x - centroids.gather(1, index)).square().sum((1, 2)),)  # inertia

        calls: dict[str, Call] = {
            name: forced(name, run) for name in ("cuda", "triton", "reference")
        }

        def exact(run: Call = calls["reference"]) -> tuple[Tensor, ...]:
            return tuple(value.double() for value in run())

        yield Case(
            "kmeans",
            f"C={clients} N={rows} D={width} K={k}",
            calls,
            exact,
            1e-2,  # another rounding may take another way from the same seeds
            bytes=2.0 * 25 * x.numel() * 4,
            flops=2.0 * 25 * clients * rows * width * k,
        )


def captured(call: Call) -> Call:
    """The call as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        given = call()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return given

    return replay


CASES = (
    info_nce_cases,
    prototype_nce_cases,
    js_divergence_cases,
    js_assign_cases,
    js_nearest_cases,
    gradient_penalty_cases,
    kmeans_cases,
)


# ---- Measuring ---------------------------------------------------------------------------------


def relative_error(given: tuple[Tensor, ...], exact: tuple[Tensor, ...], rows: int | None) -> float:
    """The largest over tensors of ‖given − exact‖ / ‖exact‖; not a number counts as infinite."""
    worst = 0.0
    for tensor, expected in zip(given, exact, strict=False):
        near = tensor.detach().double()
        near = near if rows is None else near[:rows]
        error = ((near - expected).norm() / expected.norm()).item()
        worst = max(worst, error if error == error else float("inf"))
    return worst


def measure(case: Case, machine: Machine) -> Iterator[Row]:
    """One record a contender; a wrong kernel of ours ends the run."""
    exact = tuple(value.detach() for value in case.exact())
    ceiling = max(case.bytes / machine.bandwidth, case.flops / machine.products[case.dtype])
    medians: dict[str, float] = {}
    for position, (name, call) in enumerate(case.calls.items()):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        error = relative_error(call(), exact, case.rows)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        if position == 0 and not error <= case.bound:
            sys.exit(f"{case.operator} {case.size}: {name} is wrong by {error:.1e}")
        medians[name] = milliseconds(call)
        ours = next(iter(medians.values()))
        yield {
            "operator": case.operator,
            "size": case.size,
            "by": name,
            "ms": medians[name],
            "times ours": medians[name] / ours,
            "times the ceiling": medians[name] / (ceiling * 1e3),
            "TFLOP/s": case.flops / medians[name] / 1e9,
            "peak MiB": peak / 2**20,
            "error": error,
            "target": case.peers.get(name),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the result file to write")
    out = parser.parse_args().out
    if "cuda" not in ops.backends():
        sys.exit(f"the CUDA kernels cannot run here, available are {ops.backends()}")

    machine = rates()
    rows: list[Row] = []
    for cases in CASES:
        torch._dynamo.reset()
        for case in cases():
            rows.extend(measure(case, machine))
            torch.cuda.empty_cache()
    products = {str(dtype): rate for dtype, rate in machine.products.items()}
    about = facts() | {
        "cuda": torch.version.cuda,
        "copy_bytes_per_second": machine.bandwidth,
        "product_flops_per_second": products,
    }
    results.write(out, {results.ABOUT: [about], "row": rows})

    title = (
        f"{torch.cuda.get_device_name()}: copy {machine.bandwidth / 1e12:.2f} TB/s, products "
        + ", ".join(f"{name} {rate / 1e12:.0f} TFLOP/s" for name, rate in products.items())
    )
    table = Table(*rows[0], title=title)
    for row in rows:
        cells = (f"{x:.3g}" if isinstance(x, float) else str(x or "") for x in row.values())
        table.add_row(*cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
