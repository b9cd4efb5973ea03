"""Candidates: pairs of all clients' generators, and those of them that the filter keeps.

Candidates are made a few blocks at a time and only their scores are kept, so any number of them can
be filtered. Those that fine-tuning draws are made again from their random streams.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.extension import Pool
from fedsyn.core.wire import Library
from fedsyn.models.retrieval import RetrievalNet, fuse
from fedsyn.profiling import phase
from fedsyn.synthesis.filters import Filter
from fedsyn.synthesis.generators.base import Generator
from fedsyn.synthesis.prototypes import anchors
from fedsyn.synthesis.scores import CandidateScores, global_prototypes, score
from fedsyn.synthesis.scores import quotas as shares
from fedsyn.synthesis.settings import SynthesisConfig

BLOCK = 256  # most candidates of one random stream


class _Block(NamedTuple):
    """Candidates of one client that share a random stream."""

    client: int  # position in the library
    number: int
    size: int


class Sampler:
    """Candidates of every client's generator, as many as its share of all pairs.

    Noise is scaled by ``truncation``: below 1, variety is given up for typical pairs (Brock et al.
    2019, arXiv 1809.11096, section 3.1).
    """

    def __init__(
        self,
        library: Library,
        counts: Tensor,  # [C, M] pairs behind each prototype, on the host
        generator: Generator,
        config: SynthesisConfig,
        seed: int,
        round_number: int,
        stack: int,
    ) -> None:
        self._library, self._config, self._stack = library, config, stack
        self._generator = generator
        self._seed, self._round = seed, round_number
        self._mass = counts.double().cumsum(-1)
        self._blocks = [
            _Block(client, number, min(BLOCK, size - number * BLOCK))
            for client, size in enumerate(shares(counts.sum(-1).tolist(), config.candidates, 0.0))
            for number in range(-(-size // BLOCK))
        ]
        self.size = sum(block.size for block in self._blocks)  # candidates
        ends = torch.tensor([block.size for block in self._blocks]).cumsum(0)
        self._starts = ends - torch.tensor([block.size for block in self._blocks])

    def all(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs ``[n, D]`` and the positions ``[n]`` of their makers, a few blocks at a time."""
        for start in range(0, len(self._blocks), self._stack):
            part = self._blocks[start : start + self._stack]
            rows = [torch.arange(block.size) for block in part]
            maker = torch.tensor([block.client for block in part])
            sizes = torch.tensor([block.size for block in part])
            yield self._make(part, rows), maker.repeat_interleave(sizes)

    def take(self, at: Tensor) -> Tensor:
        """The pairs ``[n, D]`` at these positions of the whole sequence, made again."""
        order = at.argsort(stable=True)
        block = torch.searchsorted(self._starts, at[order], right=True) - 1
        row = at[order] - self._starts[block]
        touched, sizes = block.unique_consecutive(return_counts=True)
        rows, blocks = row.split(sizes.tolist()), touched.tolist()
        made = [
            self._make(
                [self._blocks[b] for b in blocks[start : start + self._stack]],
                rows[start : start + self._stack],
            )
            for start in range(0, len(blocks), self._stack)
        ]
        return torch.cat(made)[order.argsort().to(made[0].device)]

    def _make(self, blocks: Sequence[_Block], rows: Sequence[Tensor]) -> Tensor:
        """The candidates ``rows`` of each block, one after another ``[n, D]``."""
        config = self._config
        width = max(len(chosen) for chosen in rows)
        noise = torch.zeros(len(blocks), width, config.noise)
        owner = torch.zeros(len(blocks), width, dtype=torch.long)
        ids = [self._library.ids[block.client] for block in blocks]
        for place, (block, client, chosen) in enumerate(zip(blocks, ids, rows, strict=True)):
            purpose = f"candidates/{block.number}"
            stream = streams.generator(self._seed, purpose, self._round, client)
            mass = self._mass[block.client]
            drawn = torch.randn(block.size, config.noise, generator=stream)
            point = torch.rand(block.size, generator=stream).double() * mass[-1]
            kinds = torch.searchsorted(mass, point, right=True).clamp(max=len(mass) - 1)
            noise[place, : len(chosen)] = drawn[chosen]
            owner[place, : len(chosen)] = kinds[chosen]
        sent = self._library.take(ids, ())
        anchor = anchors(sent["prototypes"], sent["counts"], config.condition)
        prototype = anchor.take_along_dim(owner.to(anchor.device)[..., None], 1)
        noise = config.truncation * noise.to(anchor.device)
        made = self._generator.sample(sent, noise, prototype, config)
        return torch.cat([pairs[: len(c)] for pairs, c in zip(made, rows, strict=True)])


def synthesise(
    net: RetrievalNet,
    model: Tensor,  # [1, P] the aggregated model
    library: Library,
    generator: Generator,
    rule: Filter,
    config: SynthesisConfig,
    seed: int,
    round_number: int,
    stack: int,
) -> tuple[Pool, int]:
    """Sample all generators and keep what passes the filter: the pairs, of how many candidates.

    There are none where nobody has prototypes.
    """
    with phase("filter"):
        embedded, counts = _embedded_prototypes(net, model, library, config.space, stack)
        if counts.sum() == 0:
            return Pool(0, lambda at: model.new_zeros(0, 0)), 0
        stream = streams.generator(seed, "filter", round_number)
        world = global_prototypes(embedded, counts, config.global_prototypes, stream)
    sampler = Sampler(library, counts.cpu(), generator, config, seed, round_number, stack)
    # One piece of memory: small ones left behind by every block would scatter what lies between.
    scores = CandidateScores.empty(sampler.size, model.device)
    finite = torch.zeros(sampler.size, dtype=torch.bool)
    made = 0
    blocks = sampler.all()
    while True:
        with phase("sample"):
            block = next(blocks, None)
        if block is None:
            break
        pairs, maker = block
        with phase("filter"):
            good = pairs.isfinite().all(-1).cpu().nonzero().squeeze(-1)
            chosen = pairs[good.to(pairs.device)]
            image, text = (u[0] for u in net.embed(model, chosen[None]))
            scale = 1 / config.temperature
            found = score(
                image, text, maker[good], embedded, counts, world, scale,
                agreement=rule.agreement,
            )  # fmt: skip
            finite[made + good] = True
            scores.put((made + good).to(model.device), found)
            made += len(pairs)
    with phase("filter"):
        kept = finite.nonzero().squeeze(-1)
        if len(kept):
            mine = scores if finite.all() else scores.take(kept.to(model.device))
            kept = kept[rule.select(mine, world, config, stream).cpu()]

    def take(at: Tensor) -> Tensor:
        with phase("sample"):
            return sampler.take(kept[at])

    return Pool(len(kept), take), made


def _embedded_prototypes(
    net: RetrievalNet, model: Tensor, library: Library, space: str, stack: int
) -> tuple[Tensor, Tensor]:  # [C, M, d] unit rows, [C, M]
    """All clients' prototypes under one model or as they embed them, and the pairs behind each."""
    if not library.ids:
        return model.new_zeros(0, 1, 1), model.new_zeros(0, 1)
    embedded, counts = [], []
    for start in range(0, len(library.ids), stack):
        ids = library.ids[start : start + stack]
        counts.append(library.take(ids, ("counts",))["counts"])
        if space == "private":
            embedded.append(library.take(ids, ("embedded",))["embedded"])
            continue
        pairs = library.take(ids, ("prototypes",))["prototypes"]
        flat = fuse(*net.embed(model, pairs.flatten(0, 1)[None]))[0]
        embedded.append(flat.unflatten(0, pairs.shape[:2]))
    return torch.cat(embedded), torch.cat(counts)
