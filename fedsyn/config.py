"""The configuration: one frozen, validated object per section, the same fields in TOML and Python.

``load(path, overrides)`` reads a TOML file, applies ``section.key=value`` overrides and refuses
unknown keys with the nearest valid name. ``dump`` writes the complete, resolved file.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
import tomli_w
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedsyn.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Widths = tuple[Count, ...]
Channels = Annotated[int, Field(ge=8, multiple_of=8)]
Face = Literal["sans", "bold", "oblique", "serif", "mono"]
Task = Literal[
    "retrieval", "multimodal_classification", "image_classification", "representation", "vqa"
]


class Section(BaseModel):
    """Base of the sections: frozen, unknown keys refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Section)


class DataConfig(Section):
    """Which pairs, which of their arrays, and how raw pixels and strings become features."""

    name: Literal["", "glyphs"] = "glyphs"
    path: str = ""  # a file of pairs; takes the place of the embedded set
    image: str = "image"  # array or column of pixels or image features
    text: str = "text"  # array or column of strings or text features
    label: str = "label"  # array or column of labels; "" for none
    split: str = "split"  # array or column with "train"/"test"; drawn where absent
    images: str = ""  # folder of the pictures a CSV names; "" is the CSV's own folder
    size: Annotated[int, Field(ge=16)] = 64  # side in pixels of pictures read from image files
    faces: Annotated[tuple[Face, ...], Field(min_length=1)] = ("sans",)  # of the glyphs
    questions: Whole = 0  # pictures an answer to each question about them; 0: texts as they are
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    split_seed: Whole = 0  # of the drawn test split: the same test set for every run.seed
    holdout: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.1  # share of a client's pairs kept aside
    public: Share = 0.0  # share of the training pairs that everybody has, and no client of its own
    image_dim: Count = 128  # principal components kept of pixel descriptors
    text_dim: Count = 128  # singular directions kept of hashed strings
    buckets: Annotated[int, Field(ge=16)] = 1024  # hash buckets of words and character n-grams
    standardize: bool = True  # zero mean, unit variance by statistics of the training clients
    image_noise: NonNegative = 0.0  # standard deviation of noise added to image features ...
    text_noise: NonNegative = 0.0  # ... and to text features, to weaken a modality
    cache: str = "auto"  # folder of cached descriptors; "auto" the user's cache, "" none


class TaskConfig(Section):
    """What is learnt."""

    name: Task = "retrieval"


class PartitionConfig(Section):
    """Who has what."""

    scheme: Literal[
        "dirichlet", "dirichlet-clusters", "lineage", "pathological", "column", "iid"
    ] = "dirichlet"
    clients: Count = 10
    alpha: Positive = 0.1  # Dirichlet concentration: small is skewed
    clusters: Count = 10  # k-means clusters of image features (dirichlet-clusters, lineage)
    variant: Literal["consistent", "code"] = "consistent"  # of the lineage protocol
    classes: Count = 2  # classes a client (pathological)
    column: str = ""  # column whose values are the clients (column)
    imbalance: Annotated[float, Field(ge=1.0)] = 1.0  # rows of the first label to the last's
    min_size: Whole = 8  # fewest training pairs of a client
    missing_image: Share = 0.0  # share of each client's pairs that lose their picture
    missing_text: Share = 0.0  # share of each client's pairs that lose their text
    unpaired: Share = 0.0  # share of each client's pairs whose pairing is unknown
    single_modality: Share = 0.0  # share of the clients that hold images or texts alone, in turn


class ModelConfig(Section):
    """The network: of retrieval one MLP a modality into a common space."""

    hidden: Widths = (256,)
    dim: Count = 64  # embedding size (continuous)
    bits: Whole = 0  # code length of tanh hash codes; 0 for continuous unit-norm embeddings
    channels: tuple[Channels, ...] = (16, 32, 64)  # of each stage of a residual network of pictures
    blocks: Count = 1  # a stage
    stride: Count = 1  # of its first convolution
    variants: tuple[Widths, ...] = ()  # hidden layers of clients' own networks, in turn (creamfl)


class UCCHConfig(Section):
    """Of `fedsyn.objectives.pairs.ucch`."""

    contrast: Fraction = 0.9  # weight of the contrast with the memory; the rest is of the ranking
    temperature: Positive = 0.9
    momentum: Share = 0.4  # of the memory
    negatives: Count = 4096  # what the memory's entries count as
    margin: NonNegative = 0.2
    shift: NonNegative = 1.0


class DJSRHConfig(Section):
    """Of `fedsyn.objectives.pairs.djsrh`; weights for Flickr."""

    image: Fraction = 0.9  # weight of image similarities; the rest is of the texts'
    second: Fraction = 0.4  # weight of similarities of similarities
    scale: Positive = 1.5
    intra: NonNegative = 0.1  # weight of each within-modality term


class JDSHConfig(Section):
    """Of `fedsyn.objectives.pairs.jdsh`; constants for Flickr."""

    image: NonNegative = 0.5
    text: NonNegative = 0.1
    joint: NonNegative = 0.4
    low: float = -0.528  # similarities below are stressed ...
    high: float = -0.138  # ... and above
    minimum: float = -0.52
    maximum: float = 0.68
    stress_low: NonNegative = 0.1
    stress_high: NonNegative = 0.2
    scale: Positive = 1.4
    intra: NonNegative = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(
                f"objective.jdsh: expected low <= high, got {self.low} and {self.high}"
            )
        return self


class DGCPNConfig(Section):
    """Of `fedsyn.objectives.pairs.dgcpn`."""

    text: Fraction = 0.3  # weight of text similarities; the rest is of the images'
    second: Fraction = 0.3  # weight of the coherence of neighbours
    dropped: Share = 0.405  # share of the lowest similarities of a row that are no neighbours
    scale: Positive = 0.9  # of the coherence, times the number of a client's pairs
    target: Positive = 1.5  # of the two codes of a pair


class CIRHConfig(Section):
    """Of `fedsyn.objectives.pairs.cirh`."""

    image: Fraction = 0.6  # weight of image similarities; the rest is of the texts'
    first: Fraction = 0.6  # weight of plain similarities; the rest is of squashed ones
    neighbours: Fraction = 0.4  # share of a batch that are neighbours of a row
    hidden: Count = 128  # of the graph autoencoder
    reconstruction: NonNegative = 10.0
    structure: NonNegative = 1.0
    gram: NonNegative = 0.01  # weight of each Gram term of the codes


class PCMEConfig(Section):
    """Of `fedsyn.objectives.pairs.pcme`: where what is learnt starts."""

    scale: Positive = 15.0  # of distances
    shift: float = 15.0


class AugmentConfig(Section):
    """Of `fedsyn.data.augment`: random views of pictures."""

    crop: Annotated[float, Field(gt=0.0, le=1.0)] = 0.4  # least share of the area that is kept
    flip: Fraction = 0.0  # share mirrored left to right; a mirrored letter is another letter
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.4  # of coloured pictures
    grey: Fraction = 0.2  # share of coloured pictures that lose their colours
    blur: Fraction = 0.0  # share that is blurred


class SimCLRConfig(Section):
    """Of `fedsyn.objectives.views.simclr`."""

    temperature: Positive = 0.2


class MoCoConfig(Section):
    """Of `fedsyn.objectives.views.moco`."""

    temperature: Positive = 0.1
    momentum: Share = 0.9  # 0.99 where a client takes hundreds of steps a round
    queue: Count = 256  # keys of a client: at least a batch, and fewer than it has pictures


class BYOLConfig(Section):
    """Of `fedsyn.objectives.views.byol`."""

    momentum: Share = 0.99


class TeacherConfig(Section):
    """A frozen dual encoder of pictures and texts that some methods learn from."""

    name: Literal["glyphs", "run", "open_clip", "transformers"] = "glyphs"
    path: str = ""  # a run's directory, or the model's file or folder
    architecture: str = "ViT-B-32"  # of open_clip
    prompt: str = "a picture of {}"  # of a class


class OGMGEConfig(Section):
    """Of `fedsyn.objectives.classes.ogm_ge`."""

    alpha: NonNegative = 0.8
    noise: bool = True  # generalisation enhancement


class OPMConfig(Section):
    """Of `fedsyn.objectives.classes.opm`."""

    base: Fraction = 0.5  # q
    slope: Fraction = 0.5  # λ
    probability: Fraction = 0.7  # that a batch is modulated
    warmup: Whole = 5  # epochs without


class ObjectiveConfig(Section):
    """What a client minimises."""

    name: Literal[
        "info_nce", "alignment_uniformity", "pcme", "ucch", "djsrh", "jdsh", "dgcpn", "cirh",
        "simclr", "moco", "byol", "cross_entropy", "ogm_ge", "opm",
    ] = "info_nce"  # fmt: skip
    temperature: Positive = 1.0  # of info_nce
    learnable: bool = False  # temperature learnt (and federated) with the model
    pcme: PCMEConfig = PCMEConfig()
    ucch: UCCHConfig = UCCHConfig()
    djsrh: DJSRHConfig = DJSRHConfig()
    jdsh: JDSHConfig = JDSHConfig()
    dgcpn: DGCPNConfig = DGCPNConfig()
    cirh: CIRHConfig = CIRHConfig()
    simclr: SimCLRConfig = SimCLRConfig()
    moco: MoCoConfig = MoCoConfig()
    byol: BYOLConfig = BYOLConfig()
    augment: AugmentConfig = AugmentConfig()  # of pictures, for objectives of their views
    modality: NonNegative = 0.0  # weight of a modality's own classifier, where the method has none
    ogm_ge: OGMGEConfig = OGMGEConfig()
    opm: OPMConfig = OPMConfig()


class FedProxConfig(Section):
    """Of `fedsyn.methods.fedprox`."""

    mu: NonNegative = 0.01


class ScaffoldConfig(Section):
    """Of `fedsyn.methods.scaffold`."""

    control: Literal["gradient", "drift"] = "gradient"  # options I and II of the paper
    server_lr: Positive = 1.0


class MoonConfig(Section):
    """Of `fedsyn.methods.moon`."""

    mu: NonNegative = 1.0
    temperature: Positive = 0.5


class FedDynConfig(Section):
    """Of `fedsyn.methods.feddyn`."""

    alpha: Positive = 0.01


class AdaptiveConfig(Section):
    """Of `fedsyn.methods.adaptive`: fedadam and fedyogi."""

    lr: Positive = 1e-2
    betas: tuple[Share, Share] = (0.9, 0.99)
    tau: Positive = 1e-3


class PTFUCHConfig(Section):
    """Of `fedsyn.methods.pt_fuch`."""

    prototypes: Count = 24
    temperature: Positive = 0.26  # of the predictions
    target_temperature: Positive = 0.81  # of the targets
    distillation: NonNegative = 1.0
    cluster: NonNegative = 1.0
    transfer: NonNegative = 1.0  # weight of each prototype term of the global model
    space: Literal["global", "private"] = "global"  # whose embeddings the sent prototypes are of


class CCLConfig(Section):
    """Of `fedsyn.methods.ccl.method`; its queue and temperature are those of ``objective.moco``."""

    fusion: bool = True  # others' features are negatives
    matching: NonNegative = 1.0  # weight of the entropy over neighbours; 0: no matching
    neighbours: Annotated[int, Field(ge=2)] = 10
    warmup: Whole = 5  # rounds without matching
    features: Count = 64  # that a client sends
    remote: Count = 256  # that everybody is sent
    mixed: Count = 1  # pictures in one that is shared the features of; 1: plain pictures
    signs: bool = False  # random signs of its pixels


class FedFoAConfig(Section):
    """Of `fedsyn.methods.fedfoa`."""

    mu: NonNegative = 1.0


class CReFFConfig(Section):
    """Of `fedsyn.methods.clip2fl.matching`, for the methods creff and clip2fl."""

    repeats: Count = 10  # draws behind a client's gradient of a class
    draw: Count = 32  # most rows of a class in one
    features: Count = 100  # federated features of a class
    steps: Whole = 100  # of the search for them, a round
    lr: Positive = 0.1
    classifier_epochs: Count = 300
    classifier_batch: Count = 256  # published: 32 at a rate of 0.01
    classifier_lr: Positive = 0.08


class CLIP2FLConfig(Section):
    """Of `fedsyn.methods.clip2fl.method`; the federated features are those of ``creff``."""

    distillation: NonNegative = 1.0  # α
    temperature: Positive = 3.0  # of the distillation
    contrast: NonNegative = 0.001  # β
    contrast_temperature: Positive = 0.1  # τ


class FedAlignConfig(Section):
    """Of `fedsyn.methods.fedalign`."""

    mu: NonNegative = 0.45
    # Of the last block's channels, in whole groups of its normalisation.
    share: Annotated[float, Field(gt=0.0, lt=1.0, multiple_of=0.125)] = 0.25


class FedDMConfig(Section):
    """Of `fedsyn.methods.feddm`."""

    pictures: Count = 10  # of a class
    steps: Count = 20  # of the search for them
    lr: Positive = 1.0
    draw: Count = 32  # most rows of a class in a step
    radius: NonNegative = 5.0  # ρ


class FedCMIConfig(Section):
    """Of `fedsyn.methods.fedcmi`; what is 0 is left out."""

    modality: Positive = 2.0  # weight of each modality's classifier
    infiltration: NonNegative = 1.0  # α
    projector: Literal["cross", "own"] = "cross"  # of the weak modality, that learns from it
    slope: NonNegative = 2.0  # of the temperatures
    mu: NonNegative = 0.0  # of the proximal term
    warmup: Whole = 1  # rounds without infiltration


class CreamFLConfig(Section):
    """Of `fedsyn.methods.creamfl.method`."""

    aggregation: Literal["contrastive", "mean"] = "contrastive"  # of clients' representations
    inter: bool = True  # contrast with the other modality's representations by the server
    intra: bool = True  # and with the same modality's
    contrast: NonNegative = 0.5  # weight of both
    temperature: Positive = 0.5  # of both
    margin: NonNegative = 4.0  # of clients that learn by labels
    orthogonality: NonNegative = 0.5  # of their classes
    distillation: NonNegative = 3.0  # weight; 0: the server learns from the public pairs alone
    server_epochs: Count = 1  # passes over the public pairs a round, after that of distillation
    server_lr: Positive = 1e-3


class MFCPLConfig(Section):
    """Of `fedsyn.methods.mfcpl`."""

    regularisation: NonNegative = 1.0  # a₁
    contrast: NonNegative = 1.0  # a₂
    alignment: NonNegative = 1.0  # a₃
    temperature: Positive = 0.5  # τ


class FedMACConfig(Section):
    """Of `fedsyn.methods.fedmac.method`."""

    reconstruction: NonNegative = 0.1  # a₁
    contrast: NonNegative = 0.1  # a₂
    anchor: NonNegative = 0.1  # a₃
    temperature: Positive = 0.5  # τ


class MethodConfig(Section):
    """The federated algorithm and the clients' local training."""

    name: Literal[
        "fedavg", "fedprox", "scaffold", "moon", "feddyn", "fednova", "fedadam", "fedyogi",
        "pt_fuch", "ccl", "fedfoa", "creff", "clip2fl", "fedalign", "feddm", "fedcmi", "mfcpl",
        "fedmac", "creamfl", "local", "centralised",
    ] = "fedavg"  # fmt: skip
    weighting: Literal["size", "uniform", "contribution"] = "size"  # of clients in means
    epochs: Count = 2
    batch: Annotated[int, Field(ge=2)] = 64
    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    lr: Positive = 1e-3
    momentum: Share = 0.0  # of sgd
    weight_decay: NonNegative = 0.0
    fedprox: FedProxConfig = FedProxConfig()
    scaffold: ScaffoldConfig = ScaffoldConfig()
    moon: MoonConfig = MoonConfig()
    feddyn: FedDynConfig = FedDynConfig()
    adaptive: AdaptiveConfig = AdaptiveConfig()
    pt_fuch: PTFUCHConfig = PTFUCHConfig()
    ccl: CCLConfig = CCLConfig()
    fedfoa: FedFoAConfig = FedFoAConfig()
    creff: CReFFConfig = CReFFConfig()
    clip2fl: CLIP2FLConfig = CLIP2FLConfig()
    fedcmi: FedCMIConfig = FedCMIConfig()
    fedalign: FedAlignConfig = FedAlignConfig()
    feddm: FedDMConfig = FedDMConfig()
    creamfl: CreamFLConfig = CreamFLConfig()
    mfcpl: MFCPLConfig = MFCPLConfig()
    fedmac: FedMACConfig = FedMACConfig()

    @pydantic.model_validator(mode="after")
    def _drift_is_of_plain_sgd(self) -> Self:
        plain = self.optimizer == "sgd" and self.momentum == 0
        if self.name == "scaffold" and self.scaffold.control == "drift" and not plain:
            raise ValueError(
                "method.scaffold.control = 'drift' holds for sgd without momentum only, "
                f"got {self.optimizer!r} with momentum {self.momentum}"
            )
        return self


class FedFTGConfig(Section):
    """Of `fedsyn.synthesis.fedftg`."""

    iterations: Count = 10
    model_steps: Count = 5  # an iteration, after one generator step
    generator_lr: Positive = 1e-3
    disagreement: NonNegative = 1.0  # weight in the generators' loss
    diversity: NonNegative = 1.0


class SynthesisConfig(Section):
    """Generators on the clients, filter and fine-tuning on the server."""

    enabled: bool = True
    oracle: bool = False  # fine-tune on pooled real pairs: the bound, not a federated method
    # prototypes
    prototypes: Count = 128  # most clusters a client
    min_cluster: Count = 3  # fewest pairs behind a prototype: none is a single real pair
    space: Literal["global", "private"] = "global"  # whose embeddings of them the filter looks at
    # generator and critic
    generator: Literal["gaussian", "wgan-gp", "wgan"] = "gaussian"
    warm_start: bool = True  # start from the closed-form Gaussian
    condition: bool = True  # a generator makes pairs of a prototype asked for
    first_round: Count = 1  # generators are trained in these rounds,
    last_round: Whole = 0  # 0: to the end, and then rest
    noise: Count = 256  # dimensions; of the Gaussian, directions
    hidden: Widths = (256,)
    critic_hidden: Widths = (256, 256)
    steps: Whole = 20  # generator steps a round
    batch: Annotated[int, Field(ge=2)] = 64
    critic_steps: Count = 2  # critic steps a generator step
    critic_warmup: Whole = 100  # critic-only steps before a client's first generator step
    generator_lr: Positive = 1e-4
    critic_lr: Positive = 1e-3
    betas: tuple[Share, Share] = (0.0, 0.9)
    penalty: NonNegative = 10.0  # gradient-penalty weight (wgan-gp)
    clip: Positive = 0.01  # weight bound (wgan)
    # constraint losses of the generator
    direct: NonNegative = 0.0
    indirect: NonNegative = 0.0
    jsd: NonNegative = 0.0
    temperature: Positive = 0.3
    encoder: Literal["private", "global", "frozen"] = "private"  # frozen: the first one received
    upload: Literal["float32", "float16"] = "float32"
    # server
    global_prototypes: Count = 24
    candidates: Annotated[int, Field(ge=1, le=1 << 24)] = 8192  # drawn a round, over all clients
    truncation: Positive = 0.8  # scale of the noise that candidates are drawn with
    filter: Literal["quota", "hard", "quantile", "agreement", "none"] = "quota"
    quantile: Fraction = 0.01  # share of the worst candidates dropped by each score
    keep: Fraction = 0.75  # share of the candidates kept (quota, hard, agreement)
    balance: Fraction = 0.75  # quotas: 0 follows the pooled clients, 1 is uniform over prototypes
    server_steps: Whole = 40
    server_batch: Annotated[int, Field(ge=2)] = 256
    server_lr: Positive = 1e-3
    proximal: NonNegative = 0.0
    gate: bool = True  # keep the fine-tuned model only if clients' held-out pairs do not object
    tolerance: NonNegative = 0.1  # share of their gain in run.criterion that it may take back
    server: Literal["filter", "fedftg"] = "filter"  # what the model is fine-tuned on, and how
    fedftg: FedFTGConfig = FedFTGConfig()
    # other uses of the pairs that the filter keeps
    share: Literal["server", "clients"] = "server"  # clients: the next round's train on some too
    shared: Count = 512  # pairs sent to each of them
    shared_batch: Count = 16  # how many of them join every batch of a client's own
    complete: bool = False  # clients complete pairs that lost a half from those they were sent

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.complete and self.share != "clients":
            raise ValueError(
                f"synthesis.complete = true needs synthesis.share = 'clients', got {self.share!r}"
            )
        if self.space == "private" and self.encoder != "private":
            raise ValueError(
                "synthesis.space = 'private' needs synthesis.encoder = 'private', "
                f"got {self.encoder!r}"
            )
        if self.shared_batch > self.shared:
            raise ValueError(
                f"synthesis.shared_batch = {self.shared_batch} is more than "
                f"synthesis.shared = {self.shared}"
            )
        return self


class EngineConfig(Section):
    """How the computation is laid out; never changes what is computed."""

    stack: Whole = 0  # most clients in one stacked computation; 0: 8 on a CPU, 128 on a GPU
    devices: Annotated[tuple[str, ...], Field(min_length=1)] = ("auto",)  # clients spread over them
    threads: Whole = 0  # CPU threads, each with clients of its own; 0: one a core
    graphs: bool = False  # training steps on a GPU as CUDA graphs; not measured yet
    memory: Whole = 1024  # MiB of clients' state, and of features, in memory; more lies in files
    checkpoint_seconds: NonNegative = 30.0  # least time between checkpoints; the last round has one


class FlashConfig(Section):
    """Of `fedsyn.federation.selection`."""

    exploration: NonNegative = 1.0  # how far drawn weights are from what earlier gains say
    prior: Positive = 1.0  # precision of the weights before any gain


class RunConfig(Section):
    """Rounds, seed and reporting."""

    rounds: Count = 20
    seed: Whole = 0
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # share of clients that do a round
    selection: Literal["random", "flash"] = "random"  # who they are
    flash: FlashConfig = FlashConfig()
    evaluate_every: Count = 1
    criterion: Literal["objective", "alignment_uniformity"] = "objective"  # of held-out pairs
    tf32: bool = False  # float32 products on a GPU in TF32; not measured yet
    ranking: Literal["full", "top"] = "full"  # top: metrics of the first ranks alone, for millions

    @model_validator(mode="after")
    def _flash_has_a_choice(self) -> Self:
        if self.selection == "flash" and self.fraction == 1:
            raise ValueError("run.selection = 'flash' needs run.fraction below 1, got 1")
        return self


class FlowerConfig(Section):
    """Real nodes (`fedsyn.deployment`); never changes what a client computes."""

    nodes: Count = 2  # wait for so many before the first round
    wait: Positive = 300.0  # seconds to wait for them
    timeout: Positive = 3600.0  # seconds that an exchange with all nodes may take
    quorum: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5  # least share of asked clients to answer
    test: str = ""  # file of the server's own test pairs; "" for the test rows of the run's data


class Config(Section):
    """A complete run.

    What is not given and depends on the task or the method is as `TASK_DEFAULTS` and
    `METHOD_DEFAULTS` say; the task, if it is not given either, is the method's first.
    """

    data: DataConfig = DataConfig()
    task: TaskConfig = TaskConfig()
    partition: PartitionConfig = PartitionConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    method: MethodConfig = MethodConfig()
    teacher: TeacherConfig = TeacherConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    engine: EngineConfig = EngineConfig()
    flower: FlowerConfig = FlowerConfig()
    run: RunConfig = RunConfig()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _with_defaults_of_the_task(cls, tree: Any) -> Any:
        return _filled(tree) if isinstance(tree, Mapping) else tree

    @pydantic.model_validator(mode="after")
    def _fedftg_sees_models(self) -> Self:
        if self.synthesis.server == "fedftg" and self.method.name == "fednova":
            raise ValueError(
                "synthesis.server = 'fedftg' looks at the clients' models; "
                "method.name = 'fednova' sends none"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _flash_sees_gains(self) -> Self:
        if self.run.selection == "flash" and self.data.holdout == 0:
            raise ValueError(
                "run.selection = 'flash' learns from gains on held-out rows; data.holdout = 0 "
                "keeps none"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _ccl_has_a_queue(self) -> Self:
        if self.method.name == "ccl" and self.objective.name != "moco":
            raise ValueError(
                "method.name = 'ccl' keeps the queue of objective.name = 'moco', "
                f"got {self.objective.name!r}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _graphs_have_no_noise(self) -> Self:
        draws = self.objective.name == "ogm_ge" and self.objective.ogm_ge.noise
        if draws and self.engine.graphs:
            raise ValueError(
                "engine.graphs = true replays what was recorded; objective.ogm_ge.noise = true "
                "draws anew in every step"
            )
        return self

    @property
    def synthesis_mode(self) -> Literal["off", "on", "oracle"]:
        """The synthesis in force: bounds, other tasks and `WITHOUT_SYNTHESIS` have none."""
        if self.task.name != "retrieval" or self.method.name in WITHOUT_SYNTHESIS:
            return "off"
        if self.synthesis.oracle:
            return "oracle"
        return "on" if self.synthesis.enabled else "off"

    @property
    def of_pictures(self) -> bool:
        """Whether the task looks at pixels, and at no texts."""
        return self.task.name in PICTURE_TASKS

    @property
    def has_teacher(self) -> bool:
        """Whether the method learns from the teacher."""
        return self.method.name in WITH_TEACHER

    @property
    def uses_labels(self) -> bool:
        """Whether clients learn from labels."""
        return self.task.name not in UNSUPERVISED_TASKS or self.method.name in WITH_LABELS

    @property
    def trains_generators(self) -> bool:
        """Whether clients take part in synthesis."""
        return self.synthesis_mode == "on"

    @property
    def shares_pairs(self) -> bool:
        """Whether clients are sent synthetic pairs."""
        return self.trains_generators and self.synthesis.share == "clients"

    @property
    def keeps_private_models(self) -> bool:
        """Whether clients keep private networks, for the constraint losses or the prototypes."""
        synthesis = self.synthesis
        constrained = synthesis.direct or synthesis.indirect or synthesis.jsd
        adversarial = synthesis.generator != "gaussian" and synthesis.steps > 0
        private = synthesis.encoder == "private"
        needed = (constrained and adversarial and private) or synthesis.space == "private"
        return bool(self.trains_generators and needed)


# The task of methods that cannot learn retrieval, or were made for another.
METHOD_TASKS: Mapping[str, Task] = {
    "ccl": "representation",
    "fedfoa": "representation",
    "creff": "image_classification",
    "clip2fl": "image_classification",
    "fedcmi": "multimodal_classification",
    "fedalign": "image_classification",
    "feddm": "image_classification",
    "mfcpl": "multimodal_classification",
    "fedmac": "multimodal_classification",
}
# Tasks whose features are pixels, without texts.
PICTURE_TASKS: tuple[Task, ...] = ("representation", "image_classification")
# Tasks whose clients need no labels; others have no use for rows without.
UNSUPERVISED_TASKS: tuple[Task, ...] = ("retrieval", "representation")
# Methods whose clients learn from labels whatever the task.
WITH_LABELS: tuple[str, ...] = ("creamfl",)
# Methods that learn from a teacher.
WITH_TEACHER = ("clip2fl",)
# Methods whose server has no model of the clients' pairs that synthesis could fine-tune.
WITHOUT_SYNTHESIS = ("local", "centralised", "creamfl")
# Views of pictures that leave them their class.
MILD = {"crop": 0.8, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "grey": 0.0}
# What differs from the fields' own defaults, by method, ...
METHOD_DEFAULTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "creamfl": {"data": {"public": 0.2}, "partition": {"single_modality": 0.5}},
}
# ... and by task.
TASK_DEFAULTS: Mapping[Task, Mapping[str, Mapping[str, Any]]] = {
    "representation": {
        "data": {"standardize": False},
        "objective": {"name": "moco"},
        "model": {"stride": 2},
        "method": {"epochs": 1},
        "run": {"criterion": "alignment_uniformity"},
    },
    "image_classification": {
        "data": {"standardize": False},
        "objective": {"name": "cross_entropy", "augment": MILD},
        "model": {"stride": 2},
        "method": {"lr": 3e-3, "batch": 32},
    },
    "multimodal_classification": {
        "objective": {"name": "cross_entropy"},
        "method": {
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch": 32,
            "epochs": 3,
        },
        "run": {"rounds": 30},
    },
    "vqa": {
        "data": {"questions": 200, "public": 0.1},
        "objective": {"name": "cross_entropy"},
        "method": {"creamfl": {"distillation": 0.3}},
    },
}


def _filled(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's tree with what depends on the method and the task."""
    given = {
        name: value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
        for name, value in tree.items()
    }
    if not all(isinstance(value, Mapping) for value in given.values()):
        return given  # for validation to say what is wrong
    method = str(given.get("method", {}).get("name"))
    own: Task = METHOD_TASKS.get(method, "retrieval")
    task = given.get("task", {}).get("name", own)
    defaults = _over(TASK_DEFAULTS.get(task, {}), METHOD_DEFAULTS.get(method, {}))
    return _over(_over(defaults, given), {"task": {"name": task}})


def _over(tree: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with the values of another in place of its own."""
    nested = {
        name: _over(tree[name], value)
        for name, value in more.items()
        if isinstance(value, Mapping) and isinstance(tree.get(name), Mapping)
    }
    return {**tree, **more, **nested}


def load(path: Path | str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file (defaults where ``None``) and apply ``section.key=value`` overrides.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML, or a key or value is not valid.
    """
    tree = {} if path is None else _toml(Path(path))
    for override in overrides:
        _apply(tree, override)
    return parse(tree)


def read(path: Path, kind: type[S]) -> S:
    """Another kind of section from a TOML file; raises `ConfigError` as `load` does."""
    return _validated(_toml(path), kind)


def parse(tree: Mapping[str, Any]) -> Config:
    """Validate a nested mapping; raises `ConfigError` naming the first wrong key or value."""
    return _validated(tree, Config)


def _validated(tree: Mapping[str, Any], kind: type[S]) -> S:
    try:
        return kind.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(error, kind)) from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {str(path)!r} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration file {str(path)!r} is not TOML: {error}") from None


def dump(config: Config) -> str:
    """The complete configuration as TOML; ``parse(tomllib.loads(dump(c))) == c``."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def with_overrides(config: Config, **sections: Mapping[str, Any]) -> Config:
    """A copy with some keys replaced, e.g. ``with_overrides(c, run={"seed": 1})``; validated."""
    tree = config.model_dump()
    for section, values in sections.items():
        tree[section] = {**tree[section], **values}
    return parse(tree)


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    *parents, leaf = path.strip().split(".")
    # `method=fedavg` and `objective=...` name the plug-in, as people write it.
    if not parents and leaf in ("method", "objective", "data", "task"):
        parents, leaf = [leaf], "name"
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r} goes below {parent!r}, which is a value")
        node = child
    node[leaf] = _value(text.strip())


def _value(text: str) -> Any:
    """A TOML value where the text is one, else the text itself, so strings need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: pydantic.ValidationError, kind: type[Section]) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    name = ".".join(location)
    if first["type"] == "value_error":  # of keys that do not go together, which it names
        return str(first["ctx"]["error"])
    if first["type"] == "extra_forbidden":
        valid = _valid_names(kind)
        if isinstance(first["input"], dict):  # a section that there is not, with its keys
            location += list(first["input"])[:1]
        close = difflib.get_close_matches(".".join(location), valid, n=1, cutoff=0.0)
        leaf = [key for key in valid if key.split(".")[-1] == location[-1]]
        return f"unknown key {name!r}; the nearest valid name is {(leaf or close)[0]!r}"
    return f"{name} = {first['input']!r} is not valid: {first['msg']}"


def _valid_names(kind: type[Section]) -> list[str]:
    def below(prefix: str, tree: Mapping[str, Any]) -> Iterable[str]:
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from below(f"{prefix}{key}.", value)
            else:
                yield f"{prefix}{key}"

    return list(below("", kind().model_dump()))
