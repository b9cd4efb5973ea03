"""Federated methods; one table, a line a method, the default first."""

from typing import Any

from fedsyn.methods.base import Method
from fedsyn.settings.plugins import Table

METHODS: Table[Method[Any]] = Table(
    "method",
    "method.name",
    Method,
    "fedsyn.methods.fedavg:FEDAVG",
    "fedsyn.methods.fedprox:FEDPROX",
    "fedsyn.methods.moon:MOON",
    "fedsyn.methods.scaffold:SCAFFOLD",
    "fedsyn.methods.feddyn:FEDDYN",
    "fedsyn.methods.fednova:FEDNOVA",
    "fedsyn.methods.fedexp:FEDEXP",
    "fedsyn.methods.adaptive:FEDADAM",
    "fedsyn.methods.adaptive:FEDYOGI",
    "fedsyn.methods.pt_fuch:PT_FUCH",
    "fedsyn.methods.cca:CCA",
    "fedsyn.methods.ccl.method:CCL",
    "fedsyn.methods.fedfoa:FEDFOA",
    "fedsyn.methods.clip2fl.method:CREFF",
    "fedsyn.methods.clip2fl.method:CLIP2FL",
    "fedsyn.methods.fedcmi:FEDCMI",
    "fedsyn.methods.fedalign:FEDALIGN",
    "fedsyn.methods.feddm:FEDDM",
    "fedsyn.methods.creamfl.method:CREAMFL",
    "fedsyn.methods.mfcpl:MFCPL",
    "fedsyn.methods.fedmac.method:FEDMAC",
    "fedsyn.methods.bounds:LOCAL",
    "fedsyn.methods.bounds:CENTRALISED",
)
