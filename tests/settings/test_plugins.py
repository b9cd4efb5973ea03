"""Tables of plug-ins: found by name, by import, as entry points; and the options they bring."""

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from fedsyn.errors import ConfigError
from fedsyn.settings import plugins
from fedsyn.settings.loading import validated
from fedsyn.settings.plugins import FLAT, Plugin, Table, composed, import_name
from fedsyn.settings.sections import Field, Section


@dataclass(frozen=True, kw_only=True, eq=False)
class Sound(Plugin):
    """What can be heard."""

    pitch: int = 0


class SoundConfig(Section):
    """A family of sounds."""

    name: str = Field("", description="which")
    volume: int = Field(3, description="how loud")


class BellOptions(Section):
    """Options of bells.

    They are heavy.
    """

    weight: float = Field(1.5, description="of the bell")


class Everyone(Section):
    """Options of several."""

    echo: bool = Field(False, description="whether it is heard twice")


BELL = Sound(name="bell", options={FLAT: Everyone, "bell": BellOptions}, pitch=1)
DRUM = Sound(name="drum", options={FLAT: Everyone})
HORN = Sound(name="horn-2_b")
STRANGER = Sound(name="stranger")
NO_SOUND = Plugin(name="silence")


@pytest.fixture
def sounds(monkeypatch):
    """A table of two, in a module that can be imported; `STRANGER` is in none of its lines."""
    module = ModuleType("sounds_of_this_test")
    module.BELL, module.DRUM, module.HORN, module.NO_SOUND = BELL, DRUM, HORN, NO_SOUND
    monkeypatch.setitem(sys.modules, module.__name__, module)
    lines = (f"{module.__name__}:{name}" for name in ("BELL", "DRUM"))
    return Table("sound", "play.sound", Sound, *lines)


@pytest.fixture
def installed(monkeypatch, sounds):
    """Another package, which declares `HORN`, and something else, as entry points."""
    declared = [
        EntryPoint("horn-2_b", "sounds_of_this_test:HORN", "fedsyn.sounds"),
        EntryPoint("silence", "sounds_of_this_test:NO_SOUND", "fedsyn.sounds"),
    ]

    def found(group):
        return [entry for entry in declared if entry.group == group]

    monkeypatch.setattr(plugins, "entry_points", found)


class TestPlugin:
    @pytest.mark.parametrize("name", ["", "Bell", "a bell", "-bell", "bell.one", "päuke"])
    def test_a_name_is_of_few_letters(self, name):
        with pytest.raises(ValueError, match=r"a sound is named .*; expected lower-case letters"):
            Sound(name=name)

    @pytest.mark.parametrize("options", [{"bell": BellOptions()}, {"bell": dict}, {FLAT: None}])
    def test_options_are_classes_of_sections(self, options):
        with pytest.raises(TypeError, match=r"'bell' are .*; expected a class of Section"):
            Sound(name="bell", options=options)


class TestTable:
    def test_its_lines_are_in_their_order_the_default_first(self, sounds):
        assert sounds.own == tuple(sounds) == (BELL, DRUM)
        assert sounds.names == ("bell", "drum") and sounds.default is BELL
        assert sounds.is_own(DRUM) and not sounds.is_own(STRANGER)
        assert not sounds.is_own(Sound(name="bell"))

    def test_a_name_of_the_table_is_found(self, sounds):
        assert sounds.find("drum") is DRUM

    def test_others_are_imported_by_module_and_name(self, sounds):
        assert sounds.find("sounds_of_this_test:HORN") is HORN

    def test_entry_points_are_found_by_their_names(self, sounds, installed):
        assert sounds.group == "fedsyn.sounds"
        assert sounds.find("horn-2_b") is HORN
        with pytest.raises(ConfigError, match=r"play\.sound = 'silence' is a Plugin; .* a Sound"):
            sounds.find("silence")

    def test_families_of_several_words_have_an_argument_and_a_group(self):
        table = Table("server step", "synthesis.server", Sound)
        assert (table.argument, table.group) == ("server_step", "fedsyn.server_steps")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("bel", r"play\.sound = 'bel' is not known; the nearest is 'bell'; .*'bell', 'drum'"),
            ("xyz", r"play\.sound = 'xyz' is not known; expected one of 'bell', 'drum', or 'pack"),
            ("no_such_module_:X", r"'no_such_module_:X' cannot be imported: .*no_such_module_"),
            ("sounds_of_this_test:FLUTE", r"cannot be imported: .*FLUTE"),
            ("sounds_of_this_test:", r"cannot be imported"),
            (":BELL", r"':BELL' cannot be imported"),
            ("sounds_of_this_test:NO_SOUND", r"NO_SOUND' is a Plugin; expected a Sound"),
        ],
    )
    def test_what_is_not_there_is_refused(self, sounds, name, message):
        with pytest.raises(ConfigError, match=message):
            sounds.find(name)

    def test_a_module_that_fails_is_named_with_what_it_says(self, sounds, tmp_path, monkeypatch):
        (tmp_path / "failing_sounds.py").write_text("raise RuntimeError('out of breath')")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match=r"failing_sounds:X.*RuntimeError: out of breath"):
            sounds.find("failing_sounds:X")

    def test_where_few_are_allowed_no_other_is_imported(self, sounds, installed, tmp_path):
        allowed = ("sounds_of_this_test:HORN",)
        assert sounds.find("bell", ()) is BELL
        assert sounds.find("sounds_of_this_test:HORN", allowed) is HORN
        for name in ("horn-2_b", "other_module:X"):
            with pytest.raises(ConfigError, match=rf"'{name}' is a plug-in from outside"):
                sounds.find(name, allowed)
        assert "other_module" not in sys.modules

    def test_what_is_passed_is_checked(self, sounds):
        assert sounds.checked(STRANGER) is STRANGER
        with pytest.raises(ConfigError, match=r"play\.sound = 'silence' is a Plugin; expected"):
            sounds.checked(NO_SOUND)
        with pytest.raises(ConfigError, match=r"is a int; expected a Sound"):
            sounds.checked(7)

    def test_of_those_of_a_run_it_takes_its_familys(self, sounds):
        assert sounds.of({"sound": STRANGER, "other": NO_SOUND}) is STRANGER
        with pytest.raises(ConfigError, match="is a Plugin; expected a Sound"):
            sounds.of({"sound": NO_SOUND})

    def test_a_line_that_is_no_such_plugin_is_a_mistake_of_the_table(self, sounds):
        table = Table("sound", "play.sound", Sound, "sounds_of_this_test:NO_SOUND")
        with pytest.raises(TypeError, match="NO_SOUND is a Plugin; expected a Sound"):
            table.names  # noqa: B018


class TestImportName:
    def test_one_of_the_table_has_its_name(self, sounds):
        assert import_name(DRUM, sounds) == "drum"

    def test_one_that_is_installed_has_that_of_its_entry_point(self, sounds, installed):
        assert import_name(HORN, sounds) == "horn-2_b"

    def test_one_in_a_module_has_that_of_its_place(self, sounds, monkeypatch):
        module = ModuleType("another_module_of_this_test")
        module.MINE = Sound(name="mine")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        name = import_name(module.MINE, sounds)
        assert name == "another_module_of_this_test:MINE" and sounds.find(name) is module.MINE

    def test_one_made_on_the_spot_has_none(self, sounds):
        assert import_name(Sound(name="bell"), sounds) is None

    def test_one_of_a_script_has_none(self, sounds, monkeypatch):
        monkeypatch.setattr(sys.modules["__main__"], "MINE", mine := Sound(name="mine"), False)
        assert import_name(mine, sounds) is None


class TestComposed:
    def test_flat_options_stand_in_the_section_and_others_below(self):
        section = composed(SoundConfig, (BELL, DRUM))
        own = validated(section, {"echo": True, "volume": 5, "bell": {"weight": 2.0}})
        assert own.of(Everyone).echo and own.of(BellOptions).weight == 2.0
        assert own.volume == 5 and own.name == ""
        assert section().of(BellOptions) == BellOptions()
        assert list(section.model_fields) == ["name", "volume", "echo", "bell"]

    def test_it_says_what_it_is_in_the_words_of_its_parts(self):
        section = composed(SoundConfig, (BELL, DRUM))
        assert section.__doc__ == SoundConfig.__doc__ and section.__name__ == "SoundConfig"
        assert section.model_fields["bell"].description == "Options of bells."

    def test_the_same_parts_make_the_same_class(self):
        assert composed(SoundConfig, (BELL, DRUM)) is composed(SoundConfig, [BELL, DRUM])
        assert composed(SoundConfig, ()) is not composed(SoundConfig, (DRUM,))

    def test_unknown_keys_are_named(self):
        section = composed(SoundConfig, (BELL,))
        with pytest.raises(ConfigError, match=r"'bell\.wait'; the nearest .* 'bell\.weight'"):
            validated(section, {"bell": {"wait": 1.0}})
        with pytest.raises(ConfigError, match=r"unknown key 'bell\.weight'"):
            validated(composed(SoundConfig, (DRUM,)), {"bell": {"weight": 1.0}})

    @pytest.mark.parametrize("where", ["bell", "volume", "echo", FLAT])
    def test_two_with_options_in_one_place_are_refused(self, where):
        class Others(Section):
            echo: int = Field(1, description="how often it is heard again")

        other = Sound(name="other", options={where: Others})
        place = where or "echo"
        with pytest.raises(ConfigError, match=rf"'{place}' of 'other' stand where others do"):
            composed(SoundConfig, (BELL, other))

    def test_a_flat_option_may_not_take_the_place_of_a_key_of_the_family(self):
        class Others(Section):
            volume: str = Field("", description="how loud")

        other = Sound(name="other", options={FLAT: Others})
        with pytest.raises(ConfigError, match="'volume' of 'other' stand where others do"):
            composed(SoundConfig, (other,))

    def test_a_flat_option_may_not_take_the_place_of_a_section(self):
        class Others(Section):
            bell: str = Field("", description="another one")

        other = Sound(name="other", options={FLAT: Others})
        for both in ((BELL, other), (other, BELL)):
            with pytest.raises(ConfigError, match=r"'bell' of '.*' stand where others do"):
                composed(SoundConfig, both)
