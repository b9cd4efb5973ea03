"""The picture classifier is its three parts, one after the other."""

import torch

from fedsyn.models.picture_classifier import PictureClassifier
from fedsyn.models.resnet import ResNet

NET = PictureClassifier(ResNet("encoder", (6, 5, 1), (4, 4), groups=2), dim=3, classes=7)


def drawn(clients):
    draw = torch.Generator().manual_seed(0)
    models = torch.stack([NET.init(draw) for _ in range(clients)]).double()
    return models, torch.randn(clients, 4, 30, generator=draw, dtype=torch.float64)


def test_logits_are_linear_in_embeddings_and_those_in_features():
    models, x = drawn(2)
    named = NET.layout.views(models)
    encoder = torch.cat([named[name].flatten(1) for name in NET.encoder.shapes], 1)
    features = NET.encoder(encoder, x)
    embedding = features @ named["embedding.0.weight"] + named["embedding.0.bias"]
    logits = embedding @ named["classifier.0.weight"] + named["classifier.0.bias"]
    torch.testing.assert_close(NET.embed(models, x), embedding)
    torch.testing.assert_close(NET(models, x), logits)
    assert embedding.shape == (2, 4, 3) and logits.shape == (2, 4, 7)


def test_the_classifier_is_what_the_extractor_leaves_of_the_row():
    models, _ = drawn(2)
    extractor, classifier = NET.split(models)
    assert torch.equal(torch.cat([extractor, classifier], -1), models)
    named = NET.layout.views(models)
    matrix = torch.cat([named["classifier.0.weight"], named["classifier.0.bias"]], 1)
    assert torch.equal(classifier.view(2, NET.dim + 1, NET.classes), matrix)
