"""What is measured: data sets, baselines, and the studies with one line a setting.

A setting is a list of overrides of the default configuration. To add or remove one, add or remove
its line; runs that two studies share are run once.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedsyn.settings import presets

OFF, ON, ORACLE = ("off",), ("on",), ("oracle",)
OFF_ON, ALL = (*OFF, *ON), (*OFF, *ON, *ORACLE)
Baseline = tuple[str, str]  # method and objective
Overrides = tuple[str, ...]

# File below the data folder; "" is embedded, or made of what is.
DATA = {
    "glyphs": "",
    "emoji": "emoji/emoji.npz",
    "uci_mfeat": "uci_mfeat/uci_mfeat.npz",
    "wikipedia": "wikipedia/wikipedia.npz",
    "flickr8k_1k": "flickr8k_1k/flickr8k_1k.npz",
    "flickr8k_clip": "flickr8k_clip/flickr8k_clip.npz",
    "faces": "",
}
READ: Mapping[str, Overrides] = {
    "flickr8k_1k": ("data.text=captions",),
    "flickr8k_clip": ("partition.scheme=dirichlet-clusters",),  # there are no labels
}
ALIGNED = ("flickr8k_clip", "faces")  # both halves by one encoder
AUDITED = ("glyphs", "emoji", "uci_mfeat", "wikipedia")
CHOSEN_ON = ("glyphs", "emoji")  # by seeds that are not of this page
PLAIN: Baseline = ("fedavg", "info_nce")
BASELINES: tuple[Baseline, ...] = (
    PLAIN,
    ("fedprox", "ucch"),
    ("moon", "dgcpn"),
    ("pt_fuch", "ucch"),
)
CLOSED_FORM: Baseline = ("cca", "info_nce")
SKEWED, MILD = 0.1, 1.0  # Dirichlet concentrations
# Names that conclusions refer to: settings, and what is no method.
DEFAULT, TUNED, COMPUTE, ZERO_SHOT = "default", "tuned", "compute", "zero-shot"
CHANCE = "chance"
# Of what a baseline without synthesis is tuned by; temperatures are InfoNCE's.
RATES, TEMPERATURES = (1e-3, 3e-3), (0.1, 0.2, 0.5, 1.0)
MOST_COMPUTE = 4  # times as many rounds
LACKING = ("partition.single_modality=0.5",)
FEW_STEPS = ("synthesis.generator=wgan-gp", "synthesis.steps=5")
SERVER = ("synthesis.share=server", "synthesis.server_steps=40", "synthesis.server_temperature=0.1")


def preset(name: str) -> Overrides:
    """The keys of a preset, each as an override."""
    return tuple(
        f"{section}.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for section, keys in presets.read(name).items()
        for key, value in keys.items()
    )


def own(prototypes: int, directions: str) -> Overrides:
    """Clusters of each client's own pairs, which the server sees one by one."""
    return (
        "synthesis.clusters=own",
        f"synthesis.prototypes={prototypes}",
        f"synthesis.directions={directions}",
    )


@dataclass(frozen=True)
class Setting:
    """One line of a study, and what it changes in the defaults."""

    name: str
    overrides: Overrides = ()
    modes: tuple[str, ...] = ON  # of synthesis
    against: str = ""  # the setting that its runs are compared with, seed by seed
    baselines: tuple[Baseline, ...] = ()  # in the place of the study's


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
    seeds: int = 3  # at most; 0: as many as are asked for
    recorded: bool = False  # whether all of its runs are audited


def context(setting: str) -> str:
    """What stands before the colon of a setting's name."""
    return setting.rpartition(": ")[0]


def _points() -> Iterator[Setting]:
    """Of the frontier: generators × prototypes × directions × noise."""
    for number in (1, 8, 24, 64, 256):
        yield Setting(
            f"clusters of all: {number}",
            ("synthesis.clusters=all", f"synthesis.prototypes={number}"),
        )
    for directions in ("pooled", "own"):
        for number in (8, 32, 128):
            yield Setting(
                f"own clusters, {directions} directions: {number}", own(number, directions)
            )
    for noise in (0.1, 0.3, 1.0):
        overrides = (*own(32, "pooled"), f"synthesis.disclosed_noise={noise}")
        yield Setting(f"32 own clusters, pooled directions, noise: {noise:g}", overrides)
    yield Setting("preset wgan, own clusters: 1", preset("wgan"))
    conditional = ("synthesis.condition=true", "synthesis.prototypes=8")
    yield Setting("preset wgan, own clusters: 8", (*preset("wgan"), *conditional))
    yield Setting("preset disclosing, own clusters: 128", preset("disclosing"))


BASELINE_STUDY = Study(
    "baselines",
    "Four baselines",
    "Each baseline without synthesis at its defaults (*off*), with settings chosen without labels "
    "(*tuned*), with these and as many rounds as take the time of synthesis (*equal compute*), "
    "with synthesis at its defaults (*default*), and with the *oracle*.",
    (
        Setting(DEFAULT, modes=OFF, baselines=(CLOSED_FORM,)),
        Setting(DEFAULT, modes=ALL),
    ),
    data=tuple(DATA),
    baselines=BASELINES,
    alphas=(SKEWED, MILD),
    seeds=0,
)

STUDIES = (
    BASELINE_STUDY,
    Study(
        "frontier",
        "What synthesis gains, and what it gives away",
        "What synthesis gains over the same federation without it, against what an attacker who "
        "has all uploads makes of the parts that clients send for it. A *cluster of all* is known "
        "as a sum over clients; of *own* clusters the server sees each client's prototypes, "
        "*pooled* directions are known as a sum, *own* ones client by client; *noise* is the "
        "deviation of what is added to each number of an own prototype (features have deviation "
        "1). The preset *wgan* trains a WGAN-GP from the Gaussian of a client's mean, or of 8 "
        "prototypes, and the pooled directions; *disclosing* is the default of before, whose gain "
        "is over the same runs without synthesis as the others'.",
        (Setting(DEFAULT, modes=OFF_ON), *_points()),
        data=AUDITED,
        recorded=True,
    ),
    Study(
        "pieces",
        "What each piece brings",
        "One thing changed at a time: where the model starts, who trains on synthetic pairs, and "
        "how the server does.",
        (
            Setting(DEFAULT, modes=OFF_ON),
            Setting("random start", ("model.start=random",), OFF_ON, DEFAULT),
            Setting("closed-form start", ("model.start=closed-form",), OFF_ON, DEFAULT),
            Setting("16 shared pairs a batch", ("synthesis.shared_batch=16",), against=DEFAULT),
            Setting("temperature 1", ("objective.temperature=1",), OFF_ON, DEFAULT),
            Setting("server alone", SERVER, against=DEFAULT),
            Setting("server alone, temperature 1", (*SERVER, "synthesis.server_temperature=1"),
                    against=DEFAULT),
            Setting("server alone, no line search", (*SERVER, "synthesis.line_search=[1.0]"),
                    against=DEFAULT),
            Setting("server and clients", (*SERVER, "synthesis.share=clients"), against=DEFAULT),
        ),
    ),
    Study(
        "federations",
        "Other federations",
        "Number of clients, partial participation, and clients that lack a modality.",
        (
            *(Setting(f"{n} clients", (f"partition.clients={n}",), OFF_ON) for n in (5, 20, 50)),
            Setting("30 % of clients a round", ("run.fraction=0.3",), OFF_ON),
            Setting("half with one modality", LACKING, OFF_ON),
            Setting("half with one modality, completed",
                    (*LACKING, "synthesis.share=clients", "synthesis.complete=true"),
                    against="half with one modality"),
        ),
    ),
    Study(
        "codes",
        "Hash codes",
        "Codes instead of embeddings, ranked by Hamming distance; of the closed form the signs.",
        tuple(
            setting
            for bits in (16, 32, 64)
            for setting in (
                Setting(f"{bits} bits", (f"model.bits={bits}",), OFF_ON),
                Setting(f"{bits} bits", (f"model.bits={bits}",), OFF, baselines=(CLOSED_FORM,)),
            )
        ),
    ),
    Study(
        "filters",
        "Filters",
        "Which candidates the server keeps, and FedFTG's step on the server in the place of all of "
        "it.",
        (
            Setting(DEFAULT, modes=OFF_ON),
            *(
                Setting(f"filter {name}", (f"synthesis.filter={name}",), against=DEFAULT)
                for name in ("none", "quantile", "quota", "agreement", "hard")
            ),
            Setting("FedFTG's step", (*SERVER, "synthesis.server=fedftg"), against=DEFAULT),
        ),
    ),
    Study(
        "uploads",
        "Uploads",
        "What is a client's own in half the bytes: prototypes and directions, and the weights of a "
        "WGAN-GP (100 steps). Clusters of all travel as sums, which are never halved.",
        tuple(
            Setting(f"{name}, {numbers}", (*overrides, f"synthesis.upload={numbers}"), modes,
                    against)
            for name, overrides in (("own prototypes", own(32, "own")), ("WGAN-GP", FEW_STEPS))
            for numbers, modes, against in (
                ("float32", OFF_ON, ""), ("float16", ON, f"{name}, float32"),
            )
        ),
    ),
)  # fmt: skip
