"""Every federated method in Flower's own simulation: the run of one process."""

import json
import os

import pytest

from fedsyn.deployment.server import serve
from fedsyn.federation import records
from fedsyn.federation.runner import run
from fedsyn.methods import METHODS

pytest.importorskip("ray")
pytestmark = [pytest.mark.flower, pytest.mark.slow]

FEDERATED = sorted(method.name for method in METHODS if method.deployable)
SWITCHED_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def rows(out):
    found = map(json.loads, (out / records.METRICS).read_text().splitlines())
    return [
        (
            row["round"], row["clients"], row["losses"], row["bytes_up"], row["bytes_down"],
            # (A server counts nobody's labels.)
            {name: v for name, v in row["metrics"].items() if not name.endswith("_shot")},
        )
        for row in found
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flowers_simulation_gives_the_run_of_one_process(make, same_weights, tmp_path, monkeypatch):
    for name, value in SWITCHED_OFF.items():
        monkeypatch.setenv(name, value)
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    from fedsyn.deployment.flower.client_app import app as client
    from fedsyn.deployment.flower.grid import GridTransport

    common = ["partition.clients=4", "engine.stack=1", "flower.nodes=4", "run.rounds=2"]
    configs = {name: make(f"method={name}", *common) for name in FEDERATED}
    server = ServerApp()

    @server.main()
    def main(grid, context):
        for name, config in configs.items():  # one start of Ray for all of them
            serve(config, tmp_path / "there" / name, GridTransport(grid))

    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=4,
        backend_config={
            "init_args": {"num_cpus": min(2, os.cpu_count()), "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    for name, config in configs.items():
        run(config, tmp_path / "here" / name)
        here, there = tmp_path / "here" / name, tmp_path / "there" / name
        assert rows(here) == rows(there), name
        assert same_weights(here, there), name
