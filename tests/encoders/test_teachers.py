"""What teachers make of pictures and of the names of classes."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedsyn.data import federated
from fedsyn.data import glyphs as drawn
from fedsyn.encoders import TEACHERS, glyphs
from fedsyn.encoders.base import Teacher, logits, prototypes
from fedsyn.encoders.lesson import Lesson
from fedsyn.errors import ConfigError
from fedsyn.federation import config
from fedsyn.federation.federation import federation
from fedsyn.federation.runner import run

STREAM = np.random.default_rng(0)
PIXELS = STREAM.integers(0, 256, size=(60, 16, 16), dtype=np.uint8)
NAMES = ("Cat", "Dog")


def asked(name, path="", **sections):
    """A run that learns from a teacher."""
    tree = {"teacher": {"name": name, "path": str(path)}, "method": {"name": "clip2fl"}}
    return config.parse(tree | sections)


def load(told):
    """The teacher of a run."""
    return told.plugins.teacher.load(told.teacher, told.data, told.model.dim)


def lesson(told, encoder=None):
    """What the teacher of a run, or this encoder in its place, says in it."""
    teacher = told.plugins.teacher
    if encoder is not None:
        teacher = Teacher(name="mine", load=lambda config, data, dim: encoder)
    return Lesson(teacher, told.teacher, told.data, told.model.dim)


class Fixed:
    """Three dimensions; sees a picture's first pixels, reads a text's first letters."""

    scale = 7.0

    def pictures(self, pixels):
        first = torch.from_numpy(pixels.reshape(len(pixels), -1)[:, :3]).float()
        return torch.nn.functional.normalize(first, dim=-1)

    def texts(self, strings):
        self.read = list(strings)
        letters = torch.tensor([[float(ord(letter)) for letter in text[-3:]] for text in strings])
        return torch.nn.functional.normalize(letters, dim=-1)


def test_logits_are_scaled_cosines_with_the_prompts_of_the_classes():
    teacher = Fixed()
    rows = prototypes(teacher, NAMES, "a drawing of a {}")
    found = logits(teacher, PIXELS[:4], rows)
    assert teacher.read == ["a drawing of a cat", "a drawing of a dog"]
    for row in range(4):
        seen = PIXELS[row].ravel()[:3].astype(float)
        for place, name in enumerate(("cat", "dog")):
            said = np.array([ord(letter) for letter in name], dtype=float)
            cosine = seen @ said / np.linalg.norm(seen) / np.linalg.norm(said)
            assert found[row, place].item() == pytest.approx(7 * cosine, rel=1e-5)


class Counting(Fixed):
    """Remembers how many pictures it was shown at a time."""

    def __init__(self):
        self.shown = []

    def pictures(self, pixels):
        self.shown.append(len(pixels))
        return super().pictures(pixels)


def test_a_lesson_is_taken_once_and_each_clients_pictures_on_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(TEACHERS, "is_own", lambda teacher: True)
    teacher = Counting()
    told = asked("run", tmp_path / "model", data={"cache": str(tmp_path / "cache")})
    parts = [PIXELS[:5], PIXELS[:0], PIXELS[5:7]]
    ask = lesson(told, teacher)
    found, rows = ask(parts, NAMES)
    assert teacher.shown == [5, 2]
    torch.testing.assert_close(rows, prototypes(teacher, NAMES, "a picture of {}"))
    torch.testing.assert_close(found, logits(teacher, PIXELS[:7], rows))
    teacher.shown.clear()
    again, _ = ask(parts, NAMES)
    assert torch.equal(again, found) and teacher.shown == []
    (tmp_path / "model").write_text("another model")
    ask(parts, NAMES)
    ask(parts, ("Cow", "Dog"))
    ask(parts[:1], NAMES)
    assert teacher.shown == [5, 2, 5, 2, 5]


def test_a_teacher_from_outside_is_asked_every_time(tmp_path):
    told = asked("run", tmp_path / "model", data={"cache": str(tmp_path / "cache")})
    first, _ = lesson(told, Fixed())([PIXELS[:5]], NAMES)
    other = Fixed()
    other.scale = 1.0
    second, _ = lesson(told, other)([PIXELS[:5]], NAMES)
    torch.testing.assert_close(first, 7 * second)


def test_without_pictures_there_are_prototypes_all_the_same():
    ask = lesson(asked("run", data={"cache": ""}), Fixed())
    found, rows = ask([PIXELS[:0]], NAMES)
    assert found.shape == (0, 2) and rows.shape == (2, 3)


@pytest.fixture
def finished(tmp_path):
    """``finished("key=value", ...)``: the directory of a short run on pictures and texts."""

    def train(*overrides):
        text = np.array([f"text {row % 7} of {row}" for row in range(60)])
        arrays = {"image": PIXELS, "text": text, "label": np.arange(60) % 3}
        if "features" in overrides:
            arrays["text"] = STREAM.normal(size=(60, 4))
        np.savez(tmp_path / "pairs.npz", **arrays)
        settings = [
            f"data.path={tmp_path / 'pairs.npz'}", "data.cache=", "data.buckets=32",
            "data.image_dim=6", "data.text_dim=5", "partition.clients=2", "model.dim=4",
            "model.hidden=[5]", "synthesis.enabled=false", "run.rounds=1", "engine.threads=1",
        ]  # fmt: skip
        mine = [each for each in overrides if each != "features"]
        run(config.load(None, [*settings, *mine]), tmp_path / "run")
        return tmp_path / "run"

    return train


@pytest.mark.parametrize(
    "keys",
    [
        [], ["objective.learnable=true"], ["model.start=random"], ["model.hidden=[]"],
        ["model.bits=6"], ["method=cca"],
    ],
    ids=lambda keys: " ".join(keys),
)  # fmt: skip
def test_a_run_embeds_as_it_did_when_it_was_evaluated(finished, keys):
    folder = finished("objective.temperature=0.2", *keys)
    teacher = load(asked("run", folder))
    told = config.load(folder / "config.toml")
    data = federated.load(config.data_settings(told))
    problem = federation(told, data, torch.device("cpu")).problem
    named = load_file(folder / "model.safetensors")
    image, text = problem.outputs(problem.net.layout.flatten(named), torch.arange(60))
    torch.testing.assert_close(teacher.pictures(PIXELS), image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(teacher.texts(data.pairs.text), text, atol=1e-5, rtol=1e-5)
    expected = named["log_scale"].exp().item() if "log_scale" in named else 5.0
    assert ("log_scale" in named) == (keys == ["objective.learnable=true"])
    assert teacher.scale == pytest.approx(expected)


def test_what_is_no_run_of_pictures_and_strings_is_no_teacher(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"teacher\.path = .*nothing' is not the directory of a"):
        load(asked("run", tmp_path / "nothing"))
    folder = finished("features")
    with pytest.raises(ConfigError, match=r"run' is a run that has no single model of pictures"):
        load(asked("run", folder))


def test_a_run_with_a_model_for_each_client_is_no_teacher(finished):
    folder = finished("method=local")
    with pytest.raises(ConfigError, match=r"has no single model of pictures and strings"):
        load(asked("run", folder))


@pytest.fixture
def fewer(monkeypatch):
    """Every third glyph; what teachers were trained on."""
    whole, train, trained = drawn.glyphs, glyphs._train, []

    def some(*arguments):
        pairs = whole(*arguments)
        return pairs.take(np.arange(0, len(pairs), 3))

    monkeypatch.setattr(glyphs, "glyphs", some)
    monkeypatch.setattr(glyphs, "_train", lambda *a: trained.append(a[0]) or train(*a))
    return trained


def test_the_embedded_teacher_names_glyphs_of_a_face_that_it_has_not_seen(fewer, tmp_path):
    told = asked("glyphs", data={"cache": str(tmp_path), "faces": ["sans", "mono", "serif"]})
    pairs = drawn.glyphs(("sans",))
    rows = np.flatnonzero((pairs.label >= 0) & pairs.split)
    said, kinds = lesson(told)([pairs.image[rows]], pairs.label_names)
    right = said.argmax(-1).numpy() == pairs.label[rows]
    by_kind = [right[pairs.label[rows] == kind].mean() for kind in range(16)]
    assert np.mean(by_kind) > 0.35  # 1 / 16 by chance
    assert kinds.shape == (16, told.model.embedding)
    (seen,) = fewer
    assert set(seen.columns["face"]) == {"bold", "oblique"}
    assert not set(seen.columns["character"]) & set(pairs.columns["character"][pairs.split])
    again, _ = lesson(told)([pairs.image[rows[:9]]], pairs.label_names)
    torch.testing.assert_close(again, said[:9])
    assert len(fewer) == 1  # the trained teacher is kept


@pytest.mark.parametrize(
    "data", [{"path": "photos.npz"}, {"faces": ["sans", "bold", "oblique", "serif", "mono"]}]
)
def test_the_embedded_teacher_knows_nothing_else(data):
    words = r"teacher\.name = 'glyphs' knows the embedded glyphs, in faces that data\.faces leaves"
    with pytest.raises(ConfigError, match=words):
        load(asked("glyphs", data=data))


@pytest.fixture
def transformers_folder(tmp_path):
    """A tiny CLIP with random weights, and a tokenizer of letters."""
    transformers = pytest.importorskip("transformers", reason="the extra 'clip' is not installed")
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({t: k for k, t in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2}
    own = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    torch.manual_seed(0)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**sizes, **own, "vocab_size": len(tokens)},
            vision_config={**sizes, "image_size": 8, "patch_size": 4},
            projection_dim=6,
        )
    )
    pictures = transformers.CLIPImageProcessor(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
    )
    folder = tmp_path / "clip"
    model.save_pretrained(folder)
    transformers.CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def of_unit_rows(teacher, dim):
    """Of pictures, grey and coloured, and of texts; they differ."""
    grey = teacher.pictures(PIXELS[:3])
    colour = teacher.pictures(np.repeat(PIXELS[:3, ..., None], 3, -1))
    texts = teacher.texts(["a picture of a cat", "a dog"])
    torch.testing.assert_close(grey, colour)
    for rows in (grey, texts):
        assert rows.shape[1] == dim and not rows.requires_grad
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)))
        assert (rows[0] - rows[1]).abs().max() > 1e-4


def test_a_model_of_transformers_teaches(transformers_folder):
    from transformers import CLIPModel

    teacher = load(asked("transformers", transformers_folder))
    of_unit_rows(teacher, 6)
    model = CLIPModel.from_pretrained(transformers_folder)
    assert teacher.scale == pytest.approx(model.logit_scale.exp().item())
    picture = np.repeat(PIXELS[0, ..., None], 3, -1)
    inputs = teacher.processor(images=picture, text=["a dog"], return_tensors="pt", padding=True)
    with torch.no_grad():
        whole = model(**inputs)
    expected = teacher.scale * teacher.pictures(PIXELS[:1]) @ teacher.texts(["a dog"]).T
    torch.testing.assert_close(expected, whole.logits_per_image, atol=1e-4, rtol=1e-4)


def test_a_model_of_open_clip_teaches(tmp_path):
    open_clip = pytest.importorskip("open_clip", reason="the extra 'clip' is not installed")
    tiny = {
        "embed_dim": 6,
        "vision_cfg": {"image_size": 8, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4},
        "text_cfg": {
            "context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
        },
    }  # fmt: skip
    (tmp_path / "tiny.json").write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny")
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    told = config.with_overrides(
        asked("open_clip", tmp_path / "tiny.safetensors"), teacher={"architecture": "tiny"}
    )
    teacher = load(told)
    of_unit_rows(teacher, 6)
    assert teacher.scale == pytest.approx(model.logit_scale.exp().item())
    for name, value in model.state_dict().items():
        assert torch.equal(teacher.model.state_dict()[name], value)


@pytest.mark.parametrize("name", ["open_clip", "transformers"])
def test_a_model_that_is_not_there_is_not_looked_for_elsewhere(name, tmp_path):
    pytest.importorskip(name, reason="the extra 'clip' is not installed")
    with pytest.raises(ConfigError, match=r"teacher\.path = .*nothing' does not exist"):
        load(asked(name, tmp_path / "nothing"))
    (tmp_path / "weights.pt").write_text("not weights")
    with pytest.raises(ConfigError, match=rf"weights.pt' cannot be loaded by {name}: "):
        load(asked(name, tmp_path / "weights.pt"))


@pytest.mark.parametrize("name", ["open_clip", "transformers"])
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"teacher.name = '{name}' needs the extra 'clip' \(pip"):
        load(asked(name, "somewhere"))
