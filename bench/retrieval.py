"""Judging 10,000 queries against 1,000,000 items: seconds, memory, and that the numbers agree.

    python bench/retrieval.py

mAP@50 by the best 50 items (ours, PyTorch in chunks of its best size, faiss), the same of 64-bit
codes (ours, faiss), and mAP over the whole ranking (ours; for 200 of the queries also by
sorting). All threads, all runs whole. Writes ``bench/results/retrieval.jsonl``.
"""

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from rich.console import Console
from torch import Tensor

import results
from fedsyn.metrics.retrieval import PairSet, evaluate_between
from fedsyn.ops import average_precision, pack_bits, top_k
from fedsyn.ops.ranking import precision_of_hits, shares_label
from machine import facts
from memory import cost
from peers import faiss
from rankings import WIDTH, by_faiss, by_torch, codes_by_faiss, sorted_average_precision, world

QUERIES, ITEMS, DEPTH = 10_000, 1_000_000, 50
SETS, FEW, CHECKED = 24, 200, 200
CHUNKS = (8, 16, 32, 64, 128, 256)
T = TypeVar("T")


def main() -> None:
    """Measure and publish."""
    generator = torch.Generator().manual_seed(0)
    query, query_label, gallery, gallery_label = world(generator, QUERIES, ITEMS)
    labels = query_label, gallery_label
    codes = pack_bits(query >= 0), pack_bits(gallery >= 0)
    of_query, of_item = (torch.rand(n, SETS, generator=generator) < 0.12 for n in (QUERIES, ITEMS))
    pairs = PairSet(query, query, query_label), PairSet(gallery, gallery, gallery_label)
    partner = torch.arange(QUERIES)
    chunk = best_chunk(query, gallery)

    found: dict[str, dict[str, float]] = {}

    def measure(name: str, call: Callable[[], T], against: str = "") -> T:
        given, found[name] = cost(call)
        if against:
            found[name]["times"] = found[name]["seconds"] / found[against]["seconds"]
        said = "{seconds:.1f} s, {peak_mib:.0f} MiB".format(**found[name])
        Console(stderr=True).print(f"{name}: {said}")
        return given

    best = {
        "top_k": measure("top_k", lambda: top_k(query, gallery, DEPTH)[1]),
        "torch": measure("torch", lambda: by_torch(query, gallery, DEPTH, chunk)[1], "top_k"),
        "faiss": measure("faiss", lambda: by_faiss(query, gallery, DEPTH)[1], "top_k"),
    }
    near = (
        measure("codes top_k", lambda: top_k(*codes, DEPTH)[0]),
        measure("codes faiss", lambda: codes_by_faiss(*codes, DEPTH)[0], "codes top_k"),
    )
    whole = measure("whole ranking", lambda: average_precision(query, gallery, *labels))
    whole_codes = measure("codes whole ranking", lambda: average_precision(*codes, *labels))
    sets = query, gallery, of_query, of_item
    measure("whole ranking, label sets", lambda: average_precision(*sets))
    few = query[:FEW], gallery, query_label[:FEW], gallery_label
    name = f"whole ranking of {FEW}"
    some = measure(name, lambda: average_precision(*few))
    by_sorting = measure(f"{name}, sorted", lambda: sorted_average_precision(*few), name)
    metrics = measure(
        "evaluate_between, depth 50, both directions",
        lambda: evaluate_between(*pairs, partner=partner, depth=DEPTH),
    )

    maps = {name: map50(index, *labels) for name, index in best.items()}
    exact = (query[:CHECKED].double() @ gallery.double().T).topk(DEPTH).indices
    sample = {name: map50(index[:CHECKED], *labels) for name, index in best.items()}
    about = facts() | {
        "threads": torch.get_num_threads(),
        "queries": QUERIES,
        "items": ITEMS,
        "width": WIDTH,
        "torch_chunk": chunk,
    }
    about["versions"]["faiss"] = faiss().__version__
    agreement = {
        "map50": maps | {"average_precision": whole[:, 1].mean().item()},
        "map": {"floats": whole[:, 0].mean().item(), "codes": whole_codes[:, 0].mean().item()},
        "map50_less_float64_of_sample": {
            name: value - map50(exact, *labels) for name, value in sample.items()
        },
        "items_of_float64_found": (
            (best["top_k"][:CHECKED, :, None] == exact[:, None]).any(1).double().mean().item()
        ),
        "codes_distances_equal": torch.equal(*near),
        "largest_difference_to_sorted": (some - by_sorting).abs().max().item(),
    }
    rows = [{"by": name, **spent} for name, spent in found.items()]
    results.publish("retrieval", about, rows, agreement=[agreement], metrics=[metrics])


def map50(index: Tensor, query_label: Tensor, gallery_label: Tensor) -> float:
    """Of the best 50 items of the first queries, by the relevant ones among them."""
    own = query_label[: len(index), None]
    gain, found = precision_of_hits(shares_label(own, gallery_label[index]).double())
    return (gain[:, -1] / found[:, -1].clamp(min=1)).mean().item()


def best_chunk(query: Tensor, gallery: Tensor) -> int:
    """Queries of one product: the fastest, judged by 512 of them."""

    def seconds(chunk: int) -> float:
        start = time.perf_counter()
        by_torch(query[:512], gallery, DEPTH, chunk)
        return time.perf_counter() - start

    return min(CHUNKS, key=seconds)


if __name__ == "__main__":
    main()
