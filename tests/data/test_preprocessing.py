import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer

from fedsyn.data.features import hashed_counts, hog
from fedsyn.data.preprocessing import (
    Modality,
    fit,
    payload_bytes,
    project,
    transform_image,
    transform_text,
)
from fedsyn.errors import DataError

STREAM = np.random.default_rng(0)
ROWS, BUCKETS, DIM = 60, 64, 5
FEATURES = (STREAM.normal(size=(ROWS, 7)) * np.arange(1, 8) + 3).astype(np.float32)
DESCRIPTORS = (STREAM.normal(size=(ROWS, 9)) * np.arange(1, 10) ** 1.5 + 1).astype(np.float32)
WORDS = ["red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps"]
STRINGS = [" ".join(STREAM.choice(WORDS, size=STREAM.integers(1, 7))) for _ in range(ROWS)]
COUNTS = hashed_counts(STRINGS, BUCKETS)
TRAIN = np.arange(40)
CLIENTS = [TRAIN[:7], TRAIN[7:7], TRAIN[7:30], TRAIN[30:]]  # one of them holds nothing

MODALITIES = {
    "features": Modality("image", "features", FEATURES, DIM),
    "pixels": Modality("image", "pixels", DESCRIPTORS, DIM, (16, 16, 1)),
    "strings": Modality("text", "strings", COUNTS, DIM),
}


def with_other_rows(modality: Modality, rows: np.ndarray) -> Modality:
    """The same modality with the given rows replaced by something wild."""
    values = modality.descriptors.copy()
    if isinstance(values, csr_array):
        values = values.tolil()
        values[rows] = 9.0
        values = csr_array(values)
    else:
        values[rows] = 1e6
    return Modality(modality.name, modality.form, values, modality.dim, modality.size)


@pytest.mark.parametrize("form", MODALITIES)
@pytest.mark.parametrize("standardize", [True, False])
def test_federated_equals_pooled(form, standardize):
    modality = MODALITIES[form]
    federated = fit(modality, CLIENTS, standardize).preprocessing
    pooled = fit(modality, [TRAIN], standardize).preprocessing
    assert federated.keys() == pooled.keys()
    for key, value in pooled.items():
        assert torch.allclose(federated[key].double(), value.double(), rtol=1e-10, atol=1e-10), key


@pytest.mark.parametrize("form", MODALITIES)
def test_rows_of_no_client_change_nothing(form):
    modality = MODALITIES[form]
    changed = with_other_rows(modality, np.arange(40, ROWS))
    one, other = (fit(each, CLIENTS, True).preprocessing for each in (modality, changed))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("form", MODALITIES)
def test_training_features_have_zero_mean_and_unit_variance(form):
    modality = MODALITIES[form]
    x = project(modality.name, modality.descriptors, fit(modality, CLIENTS, True).preprocessing)
    x = x[TRAIN].double()
    assert x.mean(0).abs().max() < 1e-5
    assert (x.std(0, correction=0) - 1).abs().max() < 1e-4


def test_pixels_are_projected_as_by_pca():
    derived = fit(MODALITIES["pixels"], CLIENTS, False).preprocessing
    expected = PCA(DIM, svd_solver="full").fit(DESCRIPTORS[TRAIN].astype(float))
    x = project("image", DESCRIPTORS, derived).numpy()
    assert np.allclose(np.abs(x), np.abs(expected.transform(DESCRIPTORS.astype(float))), atol=1e-3)


def test_strings_are_projected_as_by_latent_semantic_analysis():
    derived = fit(MODALITIES["strings"], CLIENTS, False).preprocessing
    weighting = TfidfTransformer(sublinear_tf=True).fit(COUNTS[TRAIN])
    svd = TruncatedSVD(DIM, algorithm="arpack").fit(weighting.transform(COUNTS[TRAIN]))
    expected = svd.transform(weighting.transform(COUNTS))
    x = project("text", COUNTS, derived).numpy()
    assert np.allclose(np.abs(x), np.abs(expected), atol=1e-5)


def test_features_pass_unless_standardised():
    modality = MODALITIES["features"]
    x = project("image", FEATURES, fit(modality, CLIENTS, False).preprocessing)
    assert np.array_equal(x.numpy(), FEATURES)


def test_constant_dimensions_are_switched_off():
    x = FEATURES.copy()
    x[TRAIN, 2] = 0.1
    modality = Modality("image", "features", x, DIM)
    derived = fit(modality, CLIENTS, True).preprocessing
    assert derived["image.scale"][2] == 0 and torch.isfinite(derived["image.scale"]).all()
    assert (project("image", x, derived)[:, 2] == 0).all()


def test_directions_beyond_the_rank_are_switched_off():
    modality = Modality("image", "pixels", DESCRIPTORS, 9, (16, 16, 1))
    derived = fit(modality, [TRAIN[:4]], True).preprocessing
    assert (derived["image.scale"] > 0).tolist() == [True] * 3 + [False] * 6


def test_a_single_training_row_is_no_accident():
    for modality in MODALITIES.values():
        derived = fit(modality, [TRAIN[:1]], True).preprocessing
        assert torch.isfinite(project(modality.name, modality.descriptors, derived)).all()


def test_no_training_rows_are_refused():
    with pytest.raises(DataError, match="no client has a training image"):
        fit(MODALITIES["pixels"], [TRAIN[:0]], True)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=40, max_size=40), st.sampled_from(list(MODALITIES)))
def test_who_holds_a_row_does_not_matter(owner, form):
    modality = MODALITIES[form]
    clients = [TRAIN[np.array(owner) == client] for client in range(4)]
    one, other = (fit(modality, parts, True).preprocessing for parts in (clients, [TRAIN]))
    for key in one:
        assert torch.allclose(one[key].double(), other[key].double(), rtol=1e-9, atol=1e-9)


def test_bytes_are_those_of_the_payloads():
    features = fit(MODALITIES["features"], CLIENTS, True)
    assert features.bytes_up == 4 * 8 * (1 + 7 + 7)  # clients, float64; count, sums, squares
    assert features.bytes_down == 4 * 8 * (7 + 7)
    pixels = fit(MODALITIES["pixels"], CLIENTS, True)
    assert pixels.bytes_up == 4 * 8 * (1 + 9 + 9 * 10 // 2)  # the upper triangle only
    strings = fit(MODALITIES["strings"], CLIENTS, True)
    triangle = BUCKETS * (BUCKETS + 1) // 2
    assert strings.bytes_up == 4 * 8 * ((1 + BUCKETS) + (1 + BUCKETS + triangle))
    assert strings.bytes_down == 4 * payload_bytes(strings.preprocessing)


def test_new_pictures_and_texts_get_the_features_of_the_old():
    pixels = STREAM.integers(0, 256, size=(20, 16, 16), dtype=np.uint8)
    described = Modality("image", "pixels", hog(pixels), DIM, (16, 16, 1))
    derived = fit(described, [np.arange(12)], True).preprocessing
    assert torch.equal(transform_image(pixels, derived), project("image", hog(pixels), derived))
    coloured = np.repeat(pixels[..., None], 3, axis=-1).repeat(2, axis=1).repeat(2, axis=2)
    assert transform_image(coloured, derived).shape == (20, DIM)

    derived = fit(MODALITIES["strings"], CLIENTS, True).preprocessing
    assert torch.equal(transform_text(STRINGS, derived), project("text", COUNTS, derived))
    assert torch.isfinite(transform_text(["", "zebra"], derived)).all()

    derived = fit(MODALITIES["features"], CLIENTS, True).preprocessing
    assert torch.equal(transform_image(FEATURES, derived), project("image", FEATURES, derived))


def test_new_queries_of_another_form_are_refused():
    strings = fit(MODALITIES["strings"], CLIENTS, True).preprocessing
    pixels = fit(MODALITIES["pixels"], CLIENTS, True).preprocessing
    features = fit(MODALITIES["features"], CLIENTS, True).preprocessing
    with pytest.raises(DataError, match=r"shape \[60, 7\]; expected uint8 pixels"):
        transform_image(FEATURES, pixels)
    with pytest.raises(DataError, match=r"shape \[2, 3\]; expected numeric features \[N, 7\]"):
        transform_image(np.zeros((2, 3)), features)
    with pytest.raises(DataError, match=r"shape \[60, 7\]; expected \[N\] strings"):
        transform_text(FEATURES, strings)
