"""Real and synthetic pairs of one trained federation, side by side in the plane (t-SNE).

van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 9, 2008.
"""

from typing import Any

import numpy as np
import torch
from sklearn.manifold import TSNE

from fedsyn.data import federated
from fedsyn.federation.compare import Job
from fedsyn.federation.config import data_settings
from fedsyn.federation.federation import federation
from fedsyn.federation.runner import resumed
from fedsyn.synthesis.extension import SYNTHESIS
from fedsyn.synthesis.generators import GENERATORS
from fedsyn.synthesis.sampling import Sampler

POINTS = 600  # of each kind
CPU = torch.device("cpu")


def points(job: Job) -> dict[str, Any]:
    """Places of real and synthetic pairs, and the client of each, after the last round of a run.

    Both kinds are drawn in proportion to clients' sizes; the synthetic ones as the server draws its
    candidates, before any filter.
    """
    config = job.config
    fed = federation(config, federated.load(data_settings(config)), CPU)
    done, _ = resumed(fed, job.out)
    library = done.received[SYNTHESIS.name].read()
    rows = np.concatenate([silo.pairs for silo in fed.silos])
    owner = np.repeat(np.arange(len(fed.silos)), [len(silo.pairs) for silo in fed.silos])
    number = min(POINTS, len(rows))
    chosen = np.random.default_rng(0).choice(len(rows), number, replace=False)
    counts = library.take(library.ids, ("counts",))["counts"]
    sampler = Sampler(
        library,
        counts,
        GENERATORS.of(config.plugins.others),
        config.synthesis.changed(candidates=number),
        config.run.seed,
        done.round_number,
        fed.stack,
    )
    made, makers = zip(*sampler.all(), strict=True)
    both = np.concatenate([fed.data.features[rows[chosen]].numpy(), torch.cat(made).numpy()])
    places = TSNE(init="pca", random_state=0).fit_transform(both).round(2).tolist()
    return {
        "data": config.data.path or config.data.name,
        "round": done.round_number,
        "real": {"client": owner[chosen].tolist(), "at": places[:number]},
        "synthetic": {"client": [library.ids[k] for k in torch.cat(makers)], "at": places[number:]},
    }
