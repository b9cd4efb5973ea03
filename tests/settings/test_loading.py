"""From TOML and overrides to sections and back."""

import tomllib
from typing import ClassVar, Self

import pydantic
import pytest

from fedsyn.errors import ConfigError
from fedsyn.settings.loading import (
    dump,
    keys,
    leaves,
    over,
    read,
    read_tree,
    renamed,
    unknown_key,
    validated,
)
from fedsyn.settings.sections import Count, Field, Section, Share, Widths


class Inner(Section):
    RENAMED: ClassVar = {"bottom": "low is what it is called"}

    low: float = Field(0.25, description="least")
    high: float = Field(0.75, description="most")

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"whole.inner: expected low <= high, got {self.low} and {self.high}")
        return self


class Part(Section):
    name: str = Field("", description="which")
    rounds: Count = Field(20, description="how many")
    widths: Widths = Field((256,), description="of layers")
    share: Share = Field(0.0, description="of all")
    inner: Inner = Field(Inner(), description="further")


class Whole(Section):
    part: Part = Field(Part(), description="a part")
    run: Inner = Field(Inner(), description="another")


class TestOverrides:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("3", 3),
            ("0.5", 0.5),
            ("true", True),
            ("[64, 32]", [64, 32]),
            ("[]", []),
            ('"3"', "3"),
            ("plain words", "plain words"),
            ("a/b.npz", "a/b.npz"),
            ("", ""),
            ("x=y", "x=y"),
        ],
    )
    def test_a_value_is_what_toml_makes_of_it_or_the_text_itself(self, text, value):
        assert read_tree(None, [f"part.inner.key={text}"]) == {"part": {"inner": {"key": value}}}

    def test_spaces_around_do_not_count(self):
        found = read_tree(None, [" part.rounds = 3 ", "part.name = a b "])
        assert found == {"part": {"rounds": 3, "name": "a b"}}

    @pytest.mark.parametrize("family", ["method", "objective", "data", "task", "teacher"])
    def test_a_family_may_be_named_in_short(self, family):
        assert read_tree(None, [f"{family}=x"]) == {family: {"name": "x"}}

    def test_the_last_wins_over_those_before_and_all_over_the_file(self, tmp_path):
        (tmp_path / "c.toml").write_text("[part]\nrounds = 1\nshare = 0.5\n")
        tree = read_tree(tmp_path / "c.toml", ["part.rounds=2", "part.rounds=3", "run.low=0"])
        assert tree == {"part": {"rounds": 3, "share": 0.5}, "run": {"low": 0}}

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("part", r"override 'part' is not of the form section\.key=value"),
            ("part.rounds.deep=1", r"'part\.rounds\.deep=1' goes below 'rounds', which is a value"),
        ],
    )
    def test_what_is_none_is_named(self, override, message):
        with pytest.raises(ConfigError, match=message):
            read_tree(None, ["part.rounds=1", override])


class TestFiles:
    def test_a_section_is_read_and_validated(self, tmp_path):
        (tmp_path / "c.toml").write_text('[part]\nname = "ü"\nwidths = [3, 4]\n', encoding="utf-8")
        assert read(tmp_path / "c.toml", Whole) == Whole(part=Part(name="ü", widths=(3, 4)))
        (tmp_path / "c.toml").write_text("[part]\nround = 3\n")
        with pytest.raises(ConfigError, match=r"unknown key 'part\.round'"):
            read(tmp_path / "c.toml", Whole)

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"none\.toml' does not exist"):
            read_tree(tmp_path / "none.toml")
        broken = tmp_path / "broken.toml"
        for content in (b"[part\n", b"[part]\nname = '\xff'\n"):
            broken.write_bytes(content)
            with pytest.raises(ConfigError, match=r"broken\.toml' is not TOML: "):
                read_tree(broken)
        with pytest.raises(ConfigError, match=r"is not TOML: .*directory"):
            read_tree(tmp_path)

    def test_what_is_dumped_is_read_as_the_same(self, tmp_path):
        whole = Whole(part=Part(name='a "b" ü\n', widths=(), rounds=7, inner=Inner(high=0.5)))
        assert validated(Whole, tomllib.loads(dump(whole))) == whole
        (tmp_path / "c.toml").write_text(dump(whole), encoding="utf-8")
        assert read(tmp_path / "c.toml", Whole) == whole
        assert set(keys(Whole)) == {
            path for path, _ in leaves(tomllib.loads(dump(whole)))
        }  # every key, not those alone that are given


class TestRefusals:
    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            (
                {"part": {"round": 3}},
                "unknown key 'part.round'; the nearest valid name is 'part.rounds'",
            ),
            (
                {"prt": {"rounds": 3, "x": 1}},
                "unknown key 'prt.rounds'; the nearest valid name is 'part.rounds'",
            ),
            (
                {"rounds": 3},
                "unknown key 'rounds'; the nearest valid name is 'part.rounds'",
            ),
            (
                {"run": {"share": 0.5}},
                "unknown key 'run.share'; the nearest valid name is 'part.share'",
            ),
            (
                {"part": {"inner": {"height": 1}}},
                "unknown key 'part.inner.height'; the nearest valid name is 'part.inner.high'",
            ),
        ],
    )
    def test_an_unknown_key_is_said_with_the_nearest(self, tree, message):
        with pytest.raises(ConfigError) as caught:
            validated(Whole, tree)
        assert str(caught.value) == message

    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            ({"part": {"rounds": 0}}, r"^part\.rounds = 0 is not valid: .*greater than or equal"),
            ({"part": {"rounds": "many"}}, r"^part\.rounds = 'many' is not valid: .*integer"),
            ({"part": {"widths": [3, 0]}}, r"^part\.widths\.1 = 0 is not valid: "),
            ({"part": {"share": float("nan")}}, r"^part\.share = nan is not valid: .*finite"),
            ({"part": 3}, r"^part = 3 is not valid: "),
        ],
    )
    def test_a_wrong_value_is_said_with_its_key(self, tree, message):
        with pytest.raises(ConfigError, match=message) as caught:
            validated(Whole, tree)
        assert "\n" not in str(caught.value)

    def test_keys_that_do_not_go_together_are_said_in_words_of_the_section(self):
        with pytest.raises(ConfigError) as caught:
            validated(Whole, {"part": {"inner": {"low": 0.9}}})
        assert str(caught.value) == "whole.inner: expected low <= high, got 0.9 and 0.75"

    def test_a_key_that_is_no_more_is_said_with_what_has_taken_its_place(self):
        for tree, path in (
            ({"run": {"bottom": 1}}, "run.bottom"),
            ({"part": {"inner": {"bottom": 1}}}, "part.inner.bottom"),
        ):
            with pytest.raises(ConfigError) as caught:
                validated(Whole, tree)
            assert str(caught.value) == f"key {path!r} is no more: low is what it is called"
        assert [key for key, _ in renamed(Whole())] == ["part.inner.bottom", "run.bottom"]
        with pytest.raises(ConfigError, match=r"unknown key 'part\.bottom'"):
            validated(Whole, {"part": {"bottom": 1}})

    def test_the_nearest_is_one_that_has_the_same_end(self):
        assert unknown_key("alpha", ["alphas", "partition.alpha"]).endswith("'partition.alpha'")
        assert unknown_key("alphax", ["beta", "alphas"]).endswith("'alphas'")


class TestTrees:
    def test_one_tree_over_another_replaces_values_and_keeps_the_rest(self):
        tree, more = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}, {"a": {"y": {"w": 4}}, "b": 5}
        assert over(tree, more) == {"a": {"x": 1, "y": {"z": 2, "w": 4}}, "b": 5}
        assert tree == {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
        assert over({"a": 1}, {"a": {"x": 2}}) == {"a": {"x": 2}}
        assert over({"a": {"x": 2}}, {"a": 1}) == {"a": 1}

    def test_leaves_are_told_by_their_paths(self):
        assert dict(leaves({"a": {"x": 1, "y": {"z": [2]}}, "b": {}})) == {"a.x": 1, "a.y.z": [2]}
