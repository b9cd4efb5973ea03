"""CLIP2FL and CReFF: classifiers re-trained on federated features."""
