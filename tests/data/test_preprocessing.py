import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer

from fedsyn.core.payload import nbytes
from fedsyn.data.features import hashed_counts, hog
from fedsyn.data.preprocessing import (
    Modality,
    components,
    derive,
    derive_idf,
    fit,
    frequencies,
    moments,
    project,
    tfidf,
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


# Twelve times each, divide and conquer gave up on them (one thread, an AMD EPYC).
CHINESE = [
    "滩在滩沙水海",
    "车黑的上睡色骑人海车自只玩子",
    "狗果上子场个睡男",
    "海车果场买",
    "人水里自两耍在",
]
TEXTS = Modality("text", "strings", hashed_counts(CHINESE * 12, 1024), 128)
IDF = derive_idf(frequencies(TEXTS, [np.arange(60)]))["text.idf"]
SINGULAR = {
    "texts": tfidf(TEXTS.descriptors, IDF).toarray(),
    "zero columns": np.pad(DESCRIPTORS, ((0, 0), (3, 4))),
    "constant columns": np.concatenate([DESCRIPTORS, np.full((ROWS, 3), 7.0)], axis=1),
    "repeated columns": np.concatenate([DESCRIPTORS, DESCRIPTORS], axis=1),
    "one distinct row": np.repeat(DESCRIPTORS[:1], ROWS, axis=0),
    "fewer rows than columns": DESCRIPTORS[:4],
    "zeros": np.zeros((ROWS, 9)),
    "regular": DESCRIPTORS,
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


def gives_up(*arguments, **keys):
    raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")


def sums(x: np.ndarray) -> dict[str, torch.Tensor]:
    second = (x.T @ x)[np.triu_indices(x.shape[1])]
    values = {"count": float(len(x)), "sum": x.sum(axis=0), "second": second}
    return {key: torch.as_tensor(value, dtype=torch.float64) for key, value in values.items()}


@pytest.mark.parametrize("converges", [True, False])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("rows", SINGULAR)
def test_singular_moments_have_directions(monkeypatch, rows, centred, converges):
    x = SINGULAR[rows].astype(np.float64)
    if not converges:
        monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    dim = min(x.shape[1], 128)  # more than most of them have
    found = {key: value.numpy() for key, value in components(sums(x), dim, centred, True).items()}

    vectors, offset, scale = found["components"], found["offset"], found["scale"]
    assert np.allclose(vectors.T @ vectors, np.eye(dim), rtol=0, atol=1e-12)
    # Of the rows themselves, not of their moments: the singular values.
    exact = np.linalg.svd(x - centred * x.mean(axis=0), compute_uv=False) ** 2 / len(x)
    exact = np.pad(exact, (0, max(0, dim - len(exact))))[:dim]
    projected = x @ vectors
    about = projected - centred * projected.mean(axis=0)
    assert np.allclose((about**2).mean(axis=0), exact, rtol=1e-9, atol=1e-12 * max(1, exact[0]))
    assert np.allclose(offset, projected.mean(axis=0), rtol=1e-9, atol=1e-9)
    variance = projected.var(axis=0)
    varies = variance > 1e-9 * max(exact[0], 1e-9)
    assert np.array_equal(scale > 0, varies)
    assert np.allclose(scale[varies], variance[varies] ** -0.5, rtol=1e-6)


def test_both_ways_to_directions_agree(monkeypatch):
    one = components(sums(DESCRIPTORS.astype(float)), DIM, True, True)
    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    other = components(sums(DESCRIPTORS.astype(float)), DIM, True, True)
    for key in one:
        assert torch.allclose(one[key], other[key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("distinct", [1, 5])
def test_few_distinct_texts_are_fitted(distinct):
    counts = hashed_counts([CHINESE[row % distinct] for row in range(60)], 1024)
    modality = Modality("text", "strings", counts, 128)
    derived = fit(modality, [np.arange(30), np.arange(30, 60)], True).preprocessing
    x = project("text", counts, derived)
    assert x.shape == (60, 128) and torch.isfinite(x).all()
    assert len(x.unique(dim=0)) == distinct  # the same of the same, and nothing else
    assert torch.linalg.matrix_rank(x) == distinct - 1  # around their mean


def test_moments_that_are_no_numbers_are_refused():
    modality = MODALITIES["strings"]
    total = moments(modality, [TRAIN], derive_idf(frequencies(modality, [TRAIN])))
    total["text.second"][3] = torch.nan
    with pytest.raises(DataError, match="second moments of the training texts are not finite"):
        derive(modality, total, True)


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
    assert strings.bytes_down == 4 * nbytes(strings.preprocessing)


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
