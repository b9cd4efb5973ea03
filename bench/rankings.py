"""Queries and items, and the peers of the kernels that rank them: PyTorch, faiss, sorting."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn.ops.ranking import precision_of_hits, scores
from peers import faiss

WIDTH, CLASSES = 64, 100
TILE = 1 << 19  # scores of one sort
World = tuple[Tensor, Tensor, Tensor, Tensor]  # queries, their labels; items, their labels


def world(generator: torch.Generator, queries: int, items: int) -> World:
    """Unit rows about their classes' centres."""
    centres = torch.randn(CLASSES, WIDTH, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        label = torch.randint(CLASSES, (count,), generator=generator)
        noise = torch.randn(count, WIDTH, generator=generator)
        return normalize(centres[label] + 2 * noise, dim=-1), label

    return *draw(queries), *draw(items)


def by_torch(query: Tensor, gallery: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """The best items from products of some queries with all items."""
    parts = ((rows @ gallery.T).topk(k) for rows in query.split(chunk))
    score, index = zip(*parts, strict=True)
    return torch.cat(score), torch.cat(index)


def by_faiss(query: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best items from an exhaustive index."""
    index = faiss().IndexFlatIP(query.shape[1])
    index.add(gallery.numpy())
    score, item = map(torch.from_numpy, index.search(query.numpy(), k))
    return score, item


def codes_by_faiss(query: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same of codes; of items at the same distance it may take others than we."""
    index = faiss().IndexBinaryFlat(64 * query.shape[1])
    index.add(gallery.view(torch.uint8).numpy())
    distance, item = map(torch.from_numpy, index.search(query.view(torch.uint8).numpy(), k))
    return -distance.float(), item


def sorted_average_precision(
    query: Tensor,  # [Q, D]
    gallery: Tensor,  # [G, D]
    query_label: Tensor,  # [Q]
    gallery_label: Tensor,  # [G]
    top: int = 50,
) -> Tensor:  # [Q, 3]
    """`fedsyn.ops.average_precision` of float32 and classes.

    One integer holds score, index and relevance, so that NumPy's vectorised sort ranks them: the
    fastest that we know without a kernel of one's own.
    """
    found = []
    index = torch.arange(len(gallery)) << 1
    for rows in torch.arange(len(query)).split(max(1, TILE // len(gallery))):
        word = scores(query[rows], gallery).view(torch.int32)
        ascending = word ^ ((word >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
        relevant = query_label[rows, None] == gallery_label
        key = ((~ascending).long() << 32).add_(index).add_(relevant)
        key.numpy().sort(axis=1)
        gain, count = precision_of_hits((key & 1).double())
        last = min(top, len(gallery)) - 1
        counts = torch.stack([count[:, -1], count[:, last], count[:, -1].clamp(max=top)], dim=1)
        found.append(gain[:, [-1, last, last]] / counts.clamp(min=1))
    return torch.cat(found)
