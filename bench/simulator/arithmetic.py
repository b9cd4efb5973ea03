"""What a client's local training costs as arithmetic alone, measured.

A step written out by hand: products into buffers made once, activations, InfoNCE and its gradient,
the fused Adam on one flat row. No autograd, no data to gather, no model to send or to sum. As many
processes as there are cores run it side by side, one thread each, each for another client; a
client's share is a process's time for the client's steps over the number of processes. What a
system takes beyond that is overhead: dispatch, autograd, copies, messages, aggregation, idle cores.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor

from simulator.workload import BATCH, EMBEDDING, FEATURES, HIDDEN, LR, TEMPERATURE

SECONDS = 3.0


class Tower:
    """One modality's MLP, with buffers for a batch and gradients where Adam reads them."""

    def __init__(self, flat: Tensor, gradient: Tensor, batch: int) -> None:
        sizes = [FEATURES * HIDDEN, HIDDEN, HIDDEN * EMBEDDING, EMBEDDING]
        shapes = [(FEATURES, HIDDEN), (HIDDEN,), (HIDDEN, EMBEDDING), (EMBEDDING,)]
        views = zip(flat.split(sizes), shapes, strict=True)
        self.w1, self.b1, self.w2, self.b2 = (part.view(shape) for part, shape in views)
        views = zip(gradient.split(sizes), shapes, strict=True)
        self.dw1, self.db1, self.dw2, self.db2 = (part.view(shape) for part, shape in views)
        self.x = torch.randn(batch, FEATURES)
        self.hidden, self.back = torch.empty(batch, HIDDEN), torch.empty(batch, HIDDEN)
        self.out, self.dout = torch.empty(batch, EMBEDDING), torch.empty(batch, EMBEDDING)
        self.length = torch.empty(batch, 1)

    def forward(self) -> Tensor:
        """Unit-norm embeddings."""
        torch.addmm(self.b1, self.x, self.w1, out=self.hidden).relu_()
        torch.addmm(self.b2, self.hidden, self.w2, out=self.out)
        torch.linalg.vector_norm(self.out, dim=1, keepdim=True, out=self.length)
        return self.out.div_(self.length)

    def backward(self) -> None:
        """Gradients of the weights, from that of the embeddings in ``dout``."""
        along = torch.linalg.vecdot(self.out, self.dout)[:, None]
        self.dout.addcmul_(self.out, along, value=-1).div_(self.length)
        torch.mm(self.hidden.T, self.dout, out=self.dw2)
        torch.sum(self.dout, 0, out=self.db2)
        torch.mm(self.dout, self.w2.T, out=self.back).mul_(self.hidden > 0)
        torch.mm(self.x.T, self.back, out=self.dw1)
        torch.sum(self.back, 0, out=self.db1)


class Step:
    """A training step of one client; `gradient` is that of InfoNCE."""

    def __init__(self, batch: int) -> None:
        half = FEATURES * HIDDEN + HIDDEN + HIDDEN * EMBEDDING + EMBEDDING
        self.flat, self.gradient = 0.05 * torch.randn(2 * half), torch.empty(2 * half)
        self.first, self.second = torch.zeros(2 * half), torch.zeros(2 * half)
        self.count = torch.zeros(())
        rows = zip(self.flat.split(half), self.gradient.split(half), strict=True)
        self.image, self.text = (Tower(*row, batch) for row in rows)
        self.logits, self.by_text = torch.empty(batch, batch), torch.empty(batch, batch)
        self.batch = batch

    def __call__(self) -> None:
        """Forward, backward, Adam."""
        u, v = self.image.forward(), self.text.forward()
        torch.mm(u, v.T, out=self.logits).div_(TEMPERATURE)
        torch.softmax(self.logits, 0, out=self.by_text)
        torch.softmax(self.logits, 1, out=self.logits)
        self.logits.add_(self.by_text).mul_(1 / (2 * self.batch * TEMPERATURE))
        self.logits.diagonal().sub_(1 / (self.batch * TEMPERATURE))
        torch.mm(self.logits, v, out=self.image.dout)
        torch.mm(self.logits.T, u, out=self.text.dout)
        self.image.backward()
        self.text.backward()
        self.count += 1
        torch._fused_adam_(
            [self.flat], [self.gradient], [self.first], [self.second], [], [self.count],
            lr=LR, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False,
            maximize=False,
        )  # fmt: skip


def client_seconds(pairs: int) -> float:
    """Seconds of arithmetic of one client's epoch, with all cores at work."""
    workers = os.cpu_count() or 1
    command = [sys.executable, "-m", "simulator.arithmetic", str(pairs)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(workers)]
    found = [float(json.loads(process.communicate()[0])) for process in running]
    return statistics.mean(found) / workers


def main() -> None:
    """One worker: the median seconds of a client's epoch."""
    torch.set_num_threads(1)
    pairs = int(sys.argv[1])
    steps = -(-pairs // BATCH)
    step = Step(-(-pairs // steps))
    spent = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        spent.append(time.perf_counter() - start)
    sys.stdout.write(json.dumps(statistics.median(spent)))


if __name__ == "__main__":
    main()
