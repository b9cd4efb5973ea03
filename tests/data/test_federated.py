from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsyn.data.federated import counts, load, transform_image, transform_text, who_has_what
from fedsyn.errors import ConfigError, DataError


@pytest.fixture
def file(tmp_path):
    """Pairs of pixels and strings with labels, in a file."""
    stream = np.random.default_rng(0)
    label = stream.integers(-1, 3, size=90)
    pixels = stream.integers(0, 256, size=(90, 16, 16), dtype=np.uint8)
    pixels[:, 4:12, 4:12] //= (label + 2).astype(np.uint8)[:, None, None]
    words = np.array(["none", "apple pie", "bread roll", "cake"])
    text = np.array([f"{words[one + 1]} {stream.integers(5)}" for one in label])
    split = np.where(np.arange(90) % 4 == 0, "test", "train")
    arrays = {"image": pixels, "text": text, "label": label, "split": split}

    def write(**changes):
        np.savez(tmp_path / "pairs.npz", **{**arrays, **changes})
        return str(tmp_path / "pairs.npz")

    return write


@pytest.fixture
def federation(configure, file):
    def build(path=None, **sections):
        small = {"clients": 3, "min_size": 2, "alpha": 1.0}
        sections["partition"] = {**small, **sections.get("partition", {})}
        dims = {"image_dim": 6, "text_dim": 4, "buckets": 64, "path": path or file()}
        sections["data"] = {**dims, **sections.get("data", {})}
        return load(configure(**sections))

    return build


def test_all_rows_have_features_and_every_training_row_a_client(federation):
    data = federation()
    assert data.image.shape == (90, 6) and data.text.shape == (90, 4)
    assert data.image.dtype == data.text.dtype == torch.float32
    training = np.concatenate([one.training for one in data.silos])
    assert np.array_equal(np.sort(training), np.setdiff1d(np.arange(90), data.test))
    assert np.array_equal(np.sort(np.concatenate([s.test for s in data.silos])), data.test)
    assert data.bytes_up > 0 and data.bytes_down > 0


def test_nothing_is_learnt_from_test_or_held_out_rows(federation, file):
    overlay = {"missing_image": 0.2, "missing_text": 0.2, "unpaired": 0.2}
    one = federation(partition=overlay)
    seen = np.concatenate([np.concatenate([s.pairs, s.images]) for s in one.silos])
    pixels, text = one.pairs.image.copy(), one.pairs.text.copy()
    pixels[np.setdiff1d(np.arange(90), seen)] = 7
    seen = np.concatenate([np.concatenate([s.pairs, s.texts]) for s in one.silos])
    text[np.setdiff1d(np.arange(90), seen)] = "other words"
    other = federation(file(image=pixels, text=text), partition=overlay)
    assert all(torch.equal(one.preprocessing[k], other.preprocessing[k]) for k in one.preprocessing)


def test_features_are_those_of_a_new_query(federation):
    data = federation()
    assert torch.equal(transform_image(data.pairs.image, data.preprocessing), data.image)
    assert torch.equal(transform_text(data.pairs.text, data.preprocessing), data.text)


def test_halves_of_one_width_may_be_aligned_if_both_are_features(federation, file):
    stream = np.random.default_rng(1)
    six, five = (stream.normal(size=(90, width)) for width in (6, 5))
    assert federation(file(image=six, text=six + five[:, :1])).as_given
    assert not federation(file(image=six, text=five)).as_given
    assert not federation(file(image=six)).as_given  # strings
    assert not federation(data={"text_dim": 6}).as_given  # six directions of each


def test_noise_weakens_one_modality_of_training_and_test_rows(federation):
    one, clean = federation(data={"image_noise": 0.5}), federation()
    noise = one.image - clean.image
    assert torch.equal(one.text, clean.text) and noise.ne(0).all()
    for rows in (one.test, np.setdiff1d(np.arange(90), one.test)):
        assert 0.4 < noise[rows].std() < 0.6 and noise[rows].mean().abs() < 0.15
    doubled = federation(data={"image_noise": 1.0}).image - clean.image
    torch.testing.assert_close(doubled, 2 * noise)
    other = federation(data={"image_noise": 0.5, "split_seed": 1})
    assert not torch.isclose(other.image - clean.image, noise).any()


def test_centralised_training_pools_the_statistics_of_the_same_clients(federation):
    federated, pooled = federation(), federation(method={"name": "centralised"})
    assert torch.allclose(federated.image, pooled.image, atol=1e-5)
    assert torch.allclose(federated.text, pooled.text, atol=1e-5)
    assert all(
        np.array_equal(a.pairs, b.pairs) for a, b in zip(federated.silos, pooled.silos, strict=True)
    )
    assert pooled.bytes_up == pooled.bytes_down == 0


def test_features_beyond_the_memory_lie_in_a_file_and_are_the_same(configure, file, tmp_path):
    small = {"clients": 3, "min_size": 2, "alpha": 1.0}
    settings = configure(data={"path": file(), "image_noise": 0.5}, partition=small)
    (tmp_path / "run").mkdir()
    within, beyond = load(settings, tmp_path), load(replace(settings, memory=0), tmp_path / "run")
    assert within.mapped is None and beyond.mapped is not None
    assert torch.equal(within.features, beyond.features)
    beyond.mapped.release()
    assert torch.equal(within.features, beyond.features)
    assert not any((tmp_path / "run").iterdir())  # the file has no name: nothing is left behind
    assert load(replace(settings, memory=0)).mapped is None  # nobody has given a folder


def test_the_cache_changes_nothing_but_the_time(federation, file, tmp_path):
    path = file()
    fresh = federation(path)
    for _ in range(2):
        cached = federation(path, data={"cache": str(tmp_path / "cache")})
        assert torch.equal(cached.image, fresh.image) and torch.equal(cached.text, fresh.text)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_split_is_drawn_where_the_file_has_none(configure, federation, file):
    one, other = (federation(data={"split": "", "split_seed": seed}) for seed in (0, 1))
    assert len(one.test) == len(other.test) == 18
    assert not np.array_equal(one.test, other.test)
    assert np.array_equal(one.test, federation(data={"split": ""}, run={"seed": 5}).test)


def test_counts_are_of_training_rows_by_label(federation, file):
    data = federation()
    table = counts(data)
    assert table.shape == (3, 4) and table.sum() == 90 - len(data.test)
    assert table[1, -1] == (data.label.numpy()[data.silos[1].training] == -1).sum()
    assert counts(federation(data={"label": ""}, partition={"scheme": "iid"})).shape == (3, 1)
    matrix = np.eye(3, dtype=int)[np.maximum(data.label.numpy(), 0)]
    matrix[:, 0] = 1
    matrix[:10] = 0
    several = federation(file(label=matrix))
    table = counts(several)
    assert table[:, 0].sum() == 90 - len(np.union1d(several.test, np.arange(10)))
    assert table[:, -1].sum() == len(np.setdiff1d(np.arange(10), several.test))
    assert several.label.dtype == torch.bool


def test_who_has_what_counts_the_rows_of_each_silo(federation):
    data = federation(partition={"missing_image": 0.3})
    table = who_has_what(data)
    assert table["labels"] == [*data.pairs.label_names, "unlabelled"]
    assert table["clients"] == counts(data).tolist()
    parts = (table["pairs"], table["holdout"], table["texts_only"])
    assert [sum(row) for row in zip(*parts, strict=True)] == counts(data).sum(axis=1).tolist()
    assert sum(table["test"]) == len(data.test) and sum(table["images_only"]) == 0


def test_natural_clients_are_the_values_of_a_column(configure):
    faces = {"faces": ["sans", "mono"], "image_dim": 8, "text_dim": 8, "buckets": 64}
    data = load(configure(data=faces, partition={"scheme": "column", "column": "face"}))
    face = data.pairs.columns["face"]
    assert [set(face[one.training]) for one in data.silos] == [{"mono"}, {"sans"}]
    characters = data.pairs.columns["character"]
    assert not set(characters[data.test]) & set(characters[~data.pairs.split])


def test_contradictions_are_said(configure, file):
    with pytest.raises(ConfigError, match=r"data\.name and data\.path are both empty"):
        load(configure(data={"name": ""}))
    with pytest.raises(DataError, match="needs 900 training pairs; the data has 67"):
        load(configure(data={"path": file()}, partition={"clients": 9, "min_size": 100}))


def test_glyphs_load_by_default(configure):
    data = load(configure(data={"image_dim": 16, "text_dim": 16, "buckets": 128}))
    assert len(data.silos) == 10 and data.image.shape[1] == 16
    assert min(len(one.training) for one in data.silos) >= 8


@pytest.mark.parametrize(
    ("name", "floor"), [("emoji", 0.27), ("wikipedia", 0.21), ("uci_mfeat", 0.55)]
)
def test_linear_retrieval_on_shared_data_is_near_its_published_figure(
    configure, shared, name, floor
):
    own = {"path": str(shared(name)), "holdout": 0.0, "buckets": 512}
    data = load(configure(data=own, partition={"scheme": "iid", "clients": 2}))
    train = np.concatenate([one.pairs for one in data.silos])
    image, text = _cca(data.image.double(), data.text.double(), torch.from_numpy(train))
    label = data.label[data.test]
    similarity = image[data.test] @ text[data.test].T
    assert _mean_average_precision(similarity, label) > floor
    shuffled = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(0))]
    assert _mean_average_precision(similarity, shuffled) < 0.75 * floor


def _cca(image, text, train, dim=16, ridge=0.1):
    def whitening(x):
        covariance = x[train].T @ x[train] / len(train)
        values, vectors = torch.linalg.eigh(covariance)
        return vectors / (values + ridge * values.mean()).sqrt() @ vectors.T

    wi, wt = whitening(image), whitening(text)
    u, s, v = torch.linalg.svd(wi @ (image[train].T @ text[train] / len(train)) @ wt)
    dim = min(dim, len(s))
    sides = image @ wi @ u[:, :dim] * s[:dim], text @ wt @ v[:dim].T * s[:dim]
    return [torch.nn.functional.normalize(x, dim=1) for x in sides]


def _mean_average_precision(similarity, label):
    order = similarity.argsort(dim=1, descending=True)
    relevant = (label[order] == label[:, None]).double()
    precision = relevant.cumsum(1) / torch.arange(1, len(label) + 1)
    return float(((precision * relevant).sum(1) / relevant.sum(1)).mean())


def test_shared_photos_with_several_captions_load(configure, shared):
    data = load(
        configure(data={"path": str(shared("flickr8k_1k")), "text": "captions", "buckets": 128})
    )
    assert data.label.shape == (1000, 10) and len(data.test) == 193
    assert data.pairs.text[0].startswith("A child in a pink dress")


def test_the_embedded_set_has_no_other_arrays(configure):
    with pytest.raises(ConfigError, match=r"data\.label = 'script'.*'label'"):
        load(configure(data={"label": "script"}))


def test_clients_of_one_modality_give_statistics_of_it_alone(federation):
    data = federation(partition={"single_modality": 0.7})
    held = who_has_what(data)
    assert [bool(n) for n in held["images_only"]] == [True, False, False]
    assert [bool(n) for n in held["texts_only"]] == [False, False, True]
    assert [bool(n) for n in held["pairs"]] == [n == 0 for n in (1, 0, 1)]
    assert held["holdout"][0] == held["holdout"][2] == 0
    assert data.features.isfinite().all()


def test_rows_say_which_halves_they_have(federation):
    data = federation(partition={"missing_image": 0.2, "missing_text": 0.2, "unpaired": 0.2})
    present = data.present.numpy()
    for one in data.silos:
        both = np.intersect1d(one.images, one.texts)
        assert present[one.pairs].all() and present[one.test].all()
        assert (present[one.images] == [True, False]).all()
        assert (present[np.setdiff1d(one.texts, both)] == [False, True]).all()


def test_one_label_of_several_is_the_rarest(federation, file):
    label = np.zeros((90, 3), dtype=np.int64)
    label[:60, 0], label[50:80, 1], label[55:60, 2] = 1, 1, 1
    data = federation(file(label=label), partition={"scheme": "iid"})
    expected = [0] * 50 + [1] * 5 + [2] * 5 + [1] * 20 + [-1] * 10
    assert data.one_label.tolist() == expected
