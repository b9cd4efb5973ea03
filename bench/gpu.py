"""The operators on a GPU, measured with CUDA events: one table on stdout, the same as JSON.

No figure of this file has been measured yet; `bench/gpu.sh` builds, tests and runs it.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fedsyn.ops import backend, backends, js_divergence
from fedsyn.ops.js_divergence import js_divergence_reference

SIZES = [(4096, 24), (1_000_000, 10), (1_000_000, 24), (1_000_000, 100), (100_000, 1000)]
CHECKED_ROWS = 4096


def milliseconds(call: Callable[[], object], repetitions: int = 50, warmup: int = 10) -> float:
    """Median time of a call; the cache is overwritten in between, so operands come from memory."""
    flush = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repetitions):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes read and written per second by a large device-to-device copy."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (milliseconds(lambda: target.copy_(source)) * 1e-3)


def kernel(p: Tensor, q: Tensor) -> Tensor:
    with backend("cuda"):
        return js_divergence(p, q)


def measure(rows: int, k: int, bandwidth: float) -> list[dict[str, object]]:
    """Forward, and forward with backward, of every contender at one size."""
    torch._dynamo.reset()
    compiled = torch.compile(js_divergence_reference, dynamic=False)
    contenders = {
        "kernel": kernel,
        "reference": js_divergence_reference,
        "torch.compile": compiled,
    }
    generator = torch.Generator(device="cuda").manual_seed(0)
    p, q = (torch.randn(rows, k, device="cuda", generator=generator).softmax(-1) for _ in range(2))
    p_leaf, q_leaf = p.clone().requires_grad_(), q.clone().requires_grad_()
    few = slice(CHECKED_ROWS)
    value = js_divergence_reference(p[few].double(), q[few].double())
    gradient = 0.5 * (2 * p[few] / (p[few] + q[few])).double().log()

    records: list[dict[str, object]] = []
    for name, call in contenders.items():

        def both(call: Callable[[Tensor, Tensor], Tensor] = call) -> tuple[Tensor, ...]:
            return torch.autograd.grad(call(p_leaf, q_leaf).sum(), (p_leaf, q_leaf))

        error = (call(p, q)[few].double() - value).abs().max().item()
        gradient_error = (both()[0][few].double() - gradient).abs().max().item()
        if max(error, gradient_error) > 1e-5:
            sys.exit(
                f"{name} is wrong at [{rows}, {k}]: {error:.1e}, gradient {gradient_error:.1e}"
            )
        forward = milliseconds(lambda call=call: call(p, q))
        records.append(
            {
                "operator": "js_divergence",
                "contender": name,
                "rows": rows,
                "k": k,
                "forward_ms": forward,
                "forward_backward_ms": milliseconds(both),
                "share_of_copy_bandwidth": 4 * rows * (2 * k + 1) / (forward * 1e-3) / bandwidth,
                "error": error,
                "gradient_error": gradient_error,
            }
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    out = parser.parse_args().out
    if "cuda" not in backends():
        sys.exit(f"the CUDA kernels cannot run here, available are {backends()}")

    bandwidth = copy_bandwidth()
    records = [record for size in SIZES for record in measure(*size, bandwidth)]
    device = torch.cuda.get_device_name()
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "copy_bandwidth_bytes_per_second": bandwidth,
        "records": records,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    columns = [key for key in records[0] if key != "operator"]
    table = Table(*columns, title=f"js_divergence on {device}, copy {bandwidth / 1e12:.2f} TB/s")
    for record in records:
        cells = (record[key] for key in columns)
        table.add_row(*(f"{x:.3g}" if isinstance(x, float) else str(x) for x in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
