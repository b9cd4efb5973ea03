"""InfoNCE over processes equals InfoNCE of the whole batch in one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from fedsyn import ops
from fedsyn.ops.distributed import info_nce_distributed

OWN, WIDTH = 30, 8
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def batch(world, dtype):
    generator = torch.Generator().manual_seed(3)
    both = torch.randn(2, world * OWN, WIDTH, generator=generator, dtype=torch.float64)
    return normalize(both, dim=-1).to(dtype)


def temperature(dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.tensor(14.0, dtype=wide, requires_grad=True)


def process(world, folder, rank):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    results = {}
    for position, dtype in enumerate(DTYPES):
        own = slice(rank * OWN, (rank + 1) * OWN)
        leaves = [t[own].clone().requires_grad_() for t in batch(world, dtype)]
        leaves.append(temperature(dtype))
        loss = info_nce_distributed(*leaves)
        found = [loss.detach(), *torch.autograd.grad(2 * loss, leaves)]
        results |= {f"{position}.{i}": t.contiguous() for i, t in enumerate(found)}
    try:
        info_nce_distributed(torch.ones(2 + rank, WIDTH), torch.ones(2 + rank, WIDTH), 1.0)
    except ValueError as error:
        Path(folder, f"{rank}.txt").write_text(str(error))
    save_file(results, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_equals_one_process_on_the_whole_batch(world, tmp_path):
    command = [sys.executable, __file__, str(world), str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in range(world)]
    assert [process.wait(timeout=120) for process in processes] == [0] * world
    ranks = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(world)]
    for position, dtype in enumerate(DTYPES):
        leaves = [*(t.requires_grad_() for t in batch(world, dtype).unbind()), temperature(dtype)]
        loss = ops.info_nce(*leaves)
        x, y, scale = torch.autograd.grad(2 * loss, leaves)
        bound = 1e-2 if dtype == torch.bfloat16 else 1e-5
        for rank, results in enumerate(ranks):
            own_loss, own_x, own_y, own_scale = (results[f"{position}.{i}"] for i in range(4))
            own = slice(rank * OWN, (rank + 1) * OWN)
            torch.testing.assert_close(own_loss, loss.detach(), rtol=1e-6, atol=1e-6)
            assert (own_x - x[own]).norm() <= bound * x[own].norm()
            assert (own_y - y[own]).norm() <= bound * y[own].norm()
            torch.testing.assert_close(own_scale, scale, rtol=1e-5, atol=1e-5)
    assert "one shape on all processes, got (2, 8)" in (tmp_path / "0.txt").read_text()


def test_needs_a_process_group():
    with pytest.raises(RuntimeError, match="init_process_group"):
        info_nce_distributed(torch.ones(2, 3), torch.ones(2, 3), 1.0)


@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 4)])
def test_refuses_what_is_not_one_block_of_rows(shape):
    with pytest.raises(ValueError, match=r"expected x \[b, D\]"):
        info_nce_distributed(torch.ones(shape), torch.ones(shape), 1.0)


if __name__ == "__main__":  # one of the processes of the test above
    process(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
