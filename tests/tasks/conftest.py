"""Problems as runs have them."""

import pytest
import torch

from fedsyn.data import federated
from fedsyn.federation.config import data_settings
from fedsyn.federation.federation import federation

HOST = torch.device("cpu")


@pytest.fixture(scope="session")
def built():
    """``built(config)``: the data of a run, or those given, and its problem."""

    def build(config, data=None):
        data = federated.load(data_settings(config)) if data is None else data
        return data, federation(config, data, HOST).problem

    return build
