"""CreamFL's weights of one client and modality: seconds and memory against the public pairs.

    python bench/cream_weighting.py

How sure every row of a client's representations is of its partner among the server's, of ``P``
public pairs: by `fedsyn.ops.diagonal_log_softmax`, and by the whole matrix [P, P] where that fits.
One thread. Writes ``bench/results/cream_weighting.jsonl``; ``difference`` is the largest to float64
over 512 of the rows.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

import results
from fedsyn import ops, streams
from machine import facts
from memory import cost
from results import Row

WIDTH, SCALE, CHECKED, LIMIT_MIB = 256, 1.0, 512, 1024
BOTH, ALONE = (4096, 8192), (50_000,)


def main() -> None:
    """Measure and publish."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for pairs in (*BOTH, *ALONE):
        client, server = representations(pairs)
        expected = exact(client[:CHECKED], server)
        by_name = {"diagonal_log_softmax": ops.diagonal_log_softmax, "whole matrix": whole}
        for name, call in by_name.items():
            if pairs in BOTH or name == "diagonal_log_softmax":
                found, spent = cost(partial(call, client, server, SCALE))
                difference = (found[:CHECKED] - expected).abs().max().item()
                rows.append({"pairs": pairs, "by": name, **spent, "difference": difference})
    assert all(row["difference"] < 1e-5 for row in rows)
    largest = next(row for row in rows if row["pairs"] == max(ALONE))
    assert largest["peak_mib"] < LIMIT_MIB
    about = {**facts(), "threads": 1, "width": WIDTH, "scale": SCALE}
    results.publish("cream_weighting", about, rows)


def representations(pairs: int) -> tuple[Tensor, Tensor]:
    """The client's and the server's, related as partners are, unit rows [P, WIDTH]."""
    stream = streams.generator(0, "representations")
    server = torch.randn(pairs, WIDTH, generator=stream)
    client = server + torch.randn(pairs, WIDTH, generator=stream)
    return normalize(client, dim=-1), normalize(server, dim=-1)


def whole(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """As the formula reads."""
    return (scale * x @ y.T).log_softmax(-1).diagonal()


def exact(x: Tensor, y: Tensor) -> Tensor:
    """The first rows in float64."""
    return (SCALE * x.double() @ y.double().T).log_softmax(-1).diagonal()


if __name__ == "__main__":
    main()
