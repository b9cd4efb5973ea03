"""What adversarial generators are told: their networks, their training, what is kept of it."""

from typing import Annotated, Literal, Self

import pydantic

from fedsyn.settings.sections import (
    Count,
    Field,
    Iterations,
    NonNegative,
    Positive,
    Share,
    Widths,
)
from fedsyn.synthesis.generators.constraints import ConstraintOptions


class WGANOptions(ConstraintOptions):
    """Options of adversarial generators."""

    warm_start: bool = Field(True, description="start from the closed-form Gaussian")
    hidden: Widths = Field((256,), description="widths of the generator's hidden layers")
    output: Literal["linear", "tanh"] = Field(
        "linear", description="last step of a generator; tanh: a cold start, and bounded"
    )
    output_range: Positive = Field(
        4.0, description="largest feature that tanh makes; standardised ones have deviation 1"
    )
    critic: Literal["plain", "projection"] = Field(
        "plain", description="what the critic sees; projection: the pair's prototype too"
    )
    critic_norm: Literal["none", "layer", "spectral"] = Field(
        "none", description="normalisation in the critic: of its layers, or of its weights"
    )
    critic_dropout: Share = Field(0.0, description="share of the critic's hidden values left out")
    critic_hidden: Widths = Field((256, 256), description="widths of the critic's hidden layers")
    steps: Iterations = Field(20, description="generator steps a round")
    batch: Annotated[int, Field(ge=2)] = Field(64, description="pairs of a step")
    critic_steps: Count = Field(2, description="critic steps a generator step")
    critic_warmup: Iterations = Field(
        100, description="critic-only steps before a client's first generator step"
    )
    generator_lr: Positive = Field(1e-4, description="rate of generator steps")
    critic_lr: Positive = Field(1e-3, description="rate of critic steps")
    betas: tuple[Share, Share] = Field(
        (0.0, 0.9), description="Adam's decay rates, of training with a penalty"
    )
    penalty: NonNegative = Field(10.0, description="weight λ of the gradient penalty")
    clip: Positive = Field(0.01, description="bound c of the critic's weights where clipped")
    ema: Share = Field(
        0.0, description="decay of the average of the generator's weights that is sent; 0: none"
    )
    judged_share: Annotated[float, Field(ge=0.0, le=0.5)] = Field(
        0.0,
        description="share of a client's training pairs kept from its generator, to choose the "
        "best of its weights by, the start included; 0: the last are sent",
    )
    judged_every: Count = Field(100, description="generator steps between two looks at them")

    @pydantic.model_validator(mode="after")
    def _bounded_is_cold(self) -> Self:
        if self.output == "tanh" and self.warm_start:
            raise ValueError("synthesis.output = 'tanh' needs synthesis.warm_start = false")
        return self
