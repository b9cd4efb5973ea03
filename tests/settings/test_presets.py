"""Presets: there, valid, and refused by a sentence where they are not."""

import pytest

from fedsyn.errors import ConfigError
from fedsyn.federation import config
from fedsyn.settings import presets
from fedsyn.settings.loading import leaves, over


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_is_a_configuration(name):
    tree = presets.read(name)
    found = dict(leaves(config.parse(tree).model_dump()))
    for key, value in leaves(tree):
        assert found[key] == (tuple(value) if isinstance(value, list) else value), key


def test_a_users_own_keys_stand_above_a_preset():
    chosen = config.parse(over(presets.read("paper"), {"synthesis": {"steps": 7}}))
    assert chosen.synthesis.steps == 7 and chosen.synthesis.noise == 100


def test_a_preset_that_is_not_there_is_refused_by_those_that_are():
    assert {"paper", "wgan"} <= set(presets.names())
    for name in ("papers", "", "../presets/paper"):
        with pytest.raises(ConfigError) as error:
            presets.read(name)
        assert str(error.value) == (
            f"preset {name!r} is not known; expected one of "
            + ", ".join(repr(one) for one in presets.names())
        )
