"""Federated methods: what goes down, what a client does, what the server does.

A method is three functions over plain data, gathered in one explicit table of names.
"""

from collections.abc import Mapping
from typing import Any

from fedsyn.methods import (
    adaptive,
    bounds,
    fedalign,
    fedavg,
    fedcmi,
    feddm,
    feddyn,
    fedfoa,
    fednova,
    fedprox,
    mfcpl,
    moon,
    pt_fuch,
    scaffold,
)
from fedsyn.methods.base import Method
from fedsyn.methods.ccl import method as ccl
from fedsyn.methods.clip2fl import method as clip2fl
from fedsyn.methods.creamfl import method as creamfl
from fedsyn.methods.fedmac import method as fedmac

METHODS: Mapping[str, Method[Any]] = {
    "fedavg": fedavg.METHOD,
    "fedprox": fedprox.METHOD,
    "moon": moon.METHOD,
    "scaffold": scaffold.METHOD,
    "feddyn": feddyn.METHOD,
    "fednova": fednova.METHOD,
    "fedadam": adaptive.FEDADAM,
    "fedyogi": adaptive.FEDYOGI,
    "pt_fuch": pt_fuch.METHOD,
    "ccl": ccl.METHOD,
    "fedfoa": fedfoa.METHOD,
    "creff": clip2fl.CREFF,
    "clip2fl": clip2fl.CLIP2FL,
    "fedcmi": fedcmi.METHOD,
    "fedalign": fedalign.METHOD,
    "feddm": feddm.METHOD,
    "creamfl": creamfl.METHOD,
    "mfcpl": mfcpl.METHOD,
    "fedmac": fedmac.METHOD,
    "local": bounds.LOCAL,
    "centralised": bounds.CENTRALISED,
}
