"""What is measured: data sets, baselines, and the studies with one line a setting.

A setting is a list of overrides of the default configuration. To add or remove one, add or remove
its line; runs that two studies share are run once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

OFF_ON, ALL = ("off", "on"), ("off", "on", "oracle")
Baseline = tuple[str, str]  # method and objective

# File below the data folder; "" is embedded.
DATA = {
    "glyphs": "",
    "wikipedia": "wikipedia/wikipedia.npz",
    "emoji": "emoji/emoji.npz",
    "uci_mfeat": "uci_mfeat/uci_mfeat.npz",
}
PLAIN: Baseline = ("fedavg", "info_nce")
BASELINES: tuple[Baseline, ...] = (
    PLAIN,
    ("fedprox", "ucch"),
    ("moon", "dgcpn"),
    ("pt_fuch", "ucch"),
)
SKEWED = 0.1  # the Dirichlet concentration at which gaps are judged
LOSSES = ("direct", "indirect", "jsd")  # constraint losses, each a weight in [synthesis]
WEIGHTS = (0.1, 1)  # of them
WGAN = ("synthesis.generator=wgan-gp",)  # what they constrain
SHORT = ("synthesis.noise=128", "synthesis.steps=40", "run.rounds=10")  # of these many runs
# Names that conclusions refer to.
WEIGHED = "private encoder"  # the context with all weights
DEFAULT, ADVERSARIAL = "default", "wgan-gp"
ALL_LOSSES = tuple(f"synthesis.{loss}=0.1" for loss in LOSSES)
LACKING = ("partition.single_modality=0.5",)
COMPLETE = ("synthesis.share=clients", "synthesis.complete=true")
UPLOAD, SMALL_UPLOAD = "float32, rank 256", "float16, rank 192"


@dataclass(frozen=True)
class Setting:
    """One line of a study."""

    name: str
    overrides: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("on",)  # of synthesis
    against: str = ""  # the setting that its runs are compared with, seed by seed


@dataclass(frozen=True)
class Study:
    """Every setting on every data set, under every baseline, at every concentration."""

    name: str
    title: str
    about: str  # what the page says before the table
    settings: tuple[Setting, ...]
    data: tuple[str, ...] = ("glyphs", "emoji")
    baselines: tuple[Baseline, ...] = (PLAIN,)
    alphas: tuple[float, ...] = (SKEWED,)


def context(setting: str) -> str:
    """What stands before the colon of a setting's name."""
    return setting.rpartition(": ")[0]


def weighted(context: str, loss: str, weight: float) -> str:
    """The name of a constraint loss's setting."""
    return f"{context}: {loss} {weight:g}"


def constraints(
    context: str, overrides: tuple[str, ...] = (), weights: tuple[float, ...] = (0.1,)
) -> Iterator[Setting]:
    """Each constraint loss alone, at each weight, against none of them."""

    def weighing(**chosen: float) -> tuple[str, ...]:
        weights = (f"synthesis.{loss}={chosen.get(loss, 0)}" for loss in LOSSES)
        return (*WGAN, *SHORT, *weights)

    none = f"{context}: none"
    yield Setting(none, (*weighing(), *overrides))
    for loss in LOSSES:
        for weight in weights:
            name = weighted(context, loss, weight)
            yield Setting(name, (*weighing(**{loss: weight}), *overrides), against=none)


STUDIES = (
    Study(
        "baselines",
        "Four baselines",
        "Each baseline as it is, with synthesis at its defaults, and with the oracle.",
        (Setting(DEFAULT, modes=ALL),),
        data=tuple(DATA),
        baselines=BASELINES,
        alphas=(SKEWED, 1.0),
    ),
    Study(
        "federations",
        "Other federations",
        "Number of clients, skew, partial participation, and clients that lack a modality.",
        (
            *(Setting(f"{n} clients", (f"partition.clients={n}",), ALL) for n in (5, 10, 20, 50)),
            *(
                Setting(f"Dirichlet {alpha:g}", (f"partition.alpha={alpha}",), ALL)
                for alpha in (0.05, 0.1, 0.3, 1.0, 3.0, 10.0)
            ),
            Setting("30 % of clients a round", ("run.fraction=0.3",), ALL),
            Setting("half with one modality", LACKING, OFF_ON),
            Setting("half with one modality, completed", (*LACKING, *COMPLETE),
                    against="half with one modality"),
        ),
    ),
    Study(
        "codes",
        "Hash codes",
        "Codes instead of embeddings, ranked by Hamming distance.",
        tuple(
            Setting(f"{bits} bits", (f"model.bits={bits}",), OFF_ON) for bits in (16, 32, 64, 128)
        ),
    ),
    Study(
        "filters",
        "What the server does",
        "Filters of the candidates, the space that prototypes are compared in, the gate, FedFTG's "
        "step in the place of all of it, and pairs sent to the clients as well. Without "
        "fine-tuning there is no synthesis: that is *off*.",
        (
            Setting(DEFAULT, modes=ALL),
            *(
                Setting(f"filter {name}", (f"synthesis.filter={name}",), against=DEFAULT)
                for name in ("none", "quantile", "quota", "agreement", "hard")
            ),
            Setting("prototypes in private spaces", ("synthesis.space=private",), against=DEFAULT),
            Setting("no gate", ("synthesis.gate=false",), against=DEFAULT),
            Setting("FedFTG's step", ("synthesis.server=fedftg",), against=DEFAULT),
            Setting("shared with clients", ("synthesis.share=clients",), against=DEFAULT),
        ),
    ),
    Study(
        "generators",
        "Generators",
        "Other generators in the place of the default, the closed-form Gaussian, which is not "
        "trained. A WGAN is trained for 20 steps a round but where a name says otherwise.",
        (
            Setting(DEFAULT, modes=ALL),
            Setting(ADVERSARIAL, WGAN, against=DEFAULT),
            Setting("wgan-gp, all three losses at 0.1", (*WGAN, *ALL_LOSSES), against=DEFAULT),
            Setting("wgan, clipped weights", ("synthesis.generator=wgan",), against=DEFAULT),
            Setting("unconditioned", ("synthesis.condition=false",), against=DEFAULT),
            Setting("full noise", ("synthesis.truncation=1",), against=DEFAULT),
        ),
        data=tuple(DATA),
    ),
    Study(
        "uploads",
        "Uploads",
        "Precision in which the generators of a WGAN are sent, and the rank of their warm start.",
        (
            Setting(UPLOAD, (*WGAN, "synthesis.upload=float32", "synthesis.noise=256"), ALL),
            *(
                Setting(f"float16, rank {rank}",
                        (*WGAN, "synthesis.upload=float16", f"synthesis.noise={rank}"),
                        against=UPLOAD)
                for rank in (128, 192, 224)
            ),
        ),
    ),
    Study(
        "losses",
        "The constraint losses, one at a time",
        "Each of the three constraint losses of a WGAN-GP alone, against none of them: at two "
        "weights, through the client's private network, the global one or the initial one, at "
        "another temperature, and where it should matter most. 10 rounds, in each 40 steps of "
        "every generator.",
        (
            *constraints(WEIGHED, ("synthesis.encoder=private",), WEIGHTS),
            *constraints("global encoder", ("synthesis.encoder=global",)),
            *constraints("frozen encoder", ("synthesis.encoder=frozen",)),
            *constraints("temperature 1", ("synthesis.temperature=1",)),
            *constraints("20 clients", ("partition.clients=20",)),
            *constraints("half with one modality", LACKING),
            *constraints("no warm start", ("synthesis.warm_start=false",)),
            *constraints("32 bits", ("model.bits=32",)),
        ),
    ),
)  # fmt: skip
