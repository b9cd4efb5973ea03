"""Bootstrap your own latent, BYOL (Grill et al. 2020, arXiv 2006.07733, section 3.1).

every batch, of views x and x':
    ξ ← m ξ + (1 − m) θ
    p = q(g(f(x; θ))),  z' = g(f(x'; ξ))        unit rows; q is the predictor, ξ has none
    L = mean of  2 − 2 ⟨p, z'⟩  + the same with the views exchanged
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn.models.representation import RepresentationNet
from fedsyn.objectives.base import Objective
from fedsyn.objectives.similarity import masked_mean
from fedsyn.objectives.views.base import Learner, Momentum, Seen, ViewObjective, Views
from fedsyn.settings.sections import Field, Section, Share


class BYOLOptions(Section):
    """Options of the objective BYOL."""

    momentum: Share = Field(0.99, description="momentum m of the slow copy")


@dataclass(frozen=True)
class BYOLObjective(ViewObjective):
    """Each view's projection by a slow copy of the model, predicted from the other view."""

    momentum: float

    @property
    def predicts(self) -> bool:
        """Its online network has a predictor."""
        return True

    def begin(self, net: RepresentationNet, like: Tensor) -> Learner:
        """A learner whose slow copies start as the models."""
        momentum = Momentum(torch.zeros_like(like), self.momentum)

        def learn(params: Tensor, clients: Tensor, views: Views, step: Tensor) -> Seen:
            pictures, valid = views.both, views.both_valid
            features = net.encode(params, pictures)
            with torch.no_grad():
                slow = momentum.follow(params, clients, step)
                target = net.project(slow, net.encode(slow, pictures), valid)
            alike = net.predict(params, features, valid) * target.roll(views.valid.shape[1], 1)
            # Twice the mean over all views is the sum of both.
            loss = 2 * masked_mean(2 - 2 * alike.sum(-1), valid)
            return Seen(loss, features.chunk(2, 1)[0], views.valid)

        return learn


BYOL = Objective(
    name="byol",
    options={"byol": BYOLOptions},
    views=lambda config: BYOLObjective(config.of(BYOLOptions).momentum),
)
