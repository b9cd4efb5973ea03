"""The table of objectives: which are of what, and where their options stand."""

import pytest
import torch

from fedsyn.objectives import OBJECTIVES
from fedsyn.objectives.base import ObjectiveConfig
from fedsyn.objectives.classes.halves import HalvesObjective
from fedsyn.objectives.classes.ogm_ge import OGM_GE, OGMGEOptions
from fedsyn.objectives.pairs.base import Sizes
from fedsyn.objectives.views.moco import MOCO
from fedsyn.settings.plugins import FLAT, composed

OPTIONS = composed(ObjectiveConfig, OBJECTIVES)()
SIZES = Sizes(image=3, text=2, code=4, hashing=False)
OF = {
    "pairs": "info_nce alignment_uniformity pcme ucch djsrh jdsh dgcpn cirh",
    "views": "info_nce alignment_uniformity simclr moco byol",
    "classes": "cross_entropy",
    "halves": "cross_entropy ogm_ge opm",
}


@pytest.mark.parametrize("protocol", OF)
def test_each_protocol_has_its_objectives(protocol):
    names = [one.name for one in OBJECTIVES if getattr(one, protocol) is not None]
    assert names == OF[protocol].split()


def test_the_default_is_the_first():
    assert OBJECTIVES.default.name == "info_nce"


@pytest.mark.parametrize("name", OBJECTIVES.names)
def test_every_objective_is_built_from_the_section_with_the_options_of_all(name):
    one = OBJECTIVES.find(name)
    for place, kind in one.options.items():
        assert place in (FLAT, name)
        assert isinstance(OPTIONS.of(kind), kind)
    if one.pairs:
        assert callable(one.pairs(OPTIONS, SIZES))
    if one.views:
        one.views(OPTIONS).accept(batch=64)
    if one.classes:
        assert callable(one.classes(OPTIONS))
    if one.halves:
        assert isinstance(one.halves(OPTIONS), HalvesObjective)


def test_a_weight_of_all_of_one_kind_stands_in_the_section_itself():
    heavy = composed(ObjectiveConfig, OBJECTIVES)(modality=3.0, temperature=0.25)
    for name in ("cross_entropy", "ogm_ge", "opm"):
        assert OBJECTIVES.find(name).halves(heavy).modality == 3.0
    assert OBJECTIVES.find("info_nce").pairs(heavy, SIZES).temperature == 0.25
    assert OBJECTIVES.find("info_nce").views(heavy).objective.temperature == 0.25
    assert MOCO.views(heavy).temperature == 0.1  # it has one of its own


def test_who_draws_in_every_step_says_so():
    drawing = [one.name for one in OBJECTIVES if one.draws(OPTIONS)]
    assert drawing == ["ogm_ge"]
    assert not OGM_GE.draws(OGMGEOptions(noise=False))


def test_objectives_by_default_have_no_parameters_and_remember_nothing():
    for name in ("alignment_uniformity", "jdsh"):
        objective = OBJECTIVES.find(name).pairs(OPTIONS, SIZES)
        assert objective.parameters(torch.Generator()) == {}
        assert objective.remember(None) is None
