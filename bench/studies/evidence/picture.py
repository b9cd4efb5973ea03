"""Real and synthetic pairs of one trained federation, side by side in the plane (t-SNE).

van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 9, 2008.
"""

from typing import Any

import numpy as np
import torch
from sklearn.manifold import TSNE

from fedsyn.data import federated
from fedsyn.federation import records, state
from fedsyn.federation.compare import Job
from fedsyn.federation.federation import federation
from fedsyn.federation.runner import digest
from fedsyn.federation.store import ClientRows
from fedsyn.synthesis.server import Library, Sampler

POINTS = 600  # of each kind
CPU = torch.device("cpu")


def points(job: Job) -> dict[str, Any]:
    """Places of real and synthetic pairs, and the client of each, after the last round of a run.

    Both kinds are drawn in proportion to clients' sizes; the synthetic ones as the server draws its
    candidates, before any filter.
    """
    path, config = job.out / records.CHECKPOINT, job.config
    kept = ClientRows(0, path.parent, 0, CPU)
    done = state.load(path, digest(config), kept, CPU)
    fed = federation(config, federated.load(config), CPU)
    rows = np.concatenate([silo.pairs for silo in fed.silos])
    owner = np.repeat(np.arange(len(fed.silos)), [len(silo.pairs) for silo in fed.silos])
    number = min(POINTS, len(rows))
    chosen = np.random.default_rng(0).choice(len(rows), number, replace=False)
    ids = tuple(kept.known.tolist())
    counts = kept.take(ids, ("counts",))["counts"]
    synthesis = config.synthesis.model_copy(update={"candidates": number})
    sampler = Sampler(
        Library(ids, kept.take), counts, synthesis, config.run.seed, done.round, fed.stack
    )
    made, makers = zip(*sampler.all(), strict=True)
    both = np.concatenate([fed.data.features[rows[chosen]].numpy(), torch.cat(made).numpy()])
    places = TSNE(init="pca", random_state=0).fit_transform(both).round(2).tolist()
    return {
        "data": config.data.path or config.data.name,
        "round": done.round,
        "real": {"client": owner[chosen].tolist(), "at": places[:number]},
        "synthetic": {"client": [ids[k] for k in torch.cat(makers)], "at": places[number:]},
    }
