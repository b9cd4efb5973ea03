"""What an extension is where nothing else is said, and where its options stand."""

import sys
from types import ModuleType

import pytest

from fedsyn.core.extension import Extension
from fedsyn.errors import ConfigError
from fedsyn.settings.loading import validated
from fedsyn.settings.plugins import FLAT, Plugin, Table
from fedsyn.settings.sections import Field, Section


class WatchConfig(Section):
    """Who is watched."""

    glass: str = Field("", description="through what")


class LensOptions(Section):
    """Options of lenses."""

    width: int = Field(3, description="of the lens")


class Coating(Section):
    """Options of all glasses."""

    blue: bool = Field(False, description="whether it is blue")


@pytest.fixture
def watch(monkeypatch):
    """An extension with a family of glasses."""
    module = ModuleType("glasses_of_this_test")
    module.LENS = Plugin(name="lens", options={FLAT: Coating, "lens": LensOptions})
    module.MIRROR = Plugin(name="mirror", options={FLAT: Coating})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    lines = (f"{module.__name__}:{name}" for name in ("LENS", "MIRROR"))
    glasses = Table("glass", "watch.glass", Plugin, *lines)
    return Extension(name="watch", config=WatchConfig, families=(glasses,))


def test_its_section_has_the_options_of_its_families(watch):
    own = validated(watch.section, {"glass": "lens", "blue": True, "lens": {"width": 5}})
    assert (own.glass, own.of(Coating).blue, own.of(LensOptions).width) == ("lens", True, 5)
    with pytest.raises(ConfigError, match=r"'lens\.with'; the nearest valid name is 'lens\.width'"):
        validated(watch.section, {"lens": {"with": 5}})


def test_one_that_says_nothing_is_in_force_nowhere_and_would_take_part_always():
    silent = Extension(name="silent")
    assert not silent.active(silent.section()) and not silent.completes(silent.section())
    assert silent.takes_part(silent.section(), 1) and not silent.pooled and silent.reads == ()
