"""An app in the place of fedsyn's: it leaves the files of a run, and goes wrong when asked to.

``run.seed`` says how: 0 it does not, 1 it fails and says so, 2 it fails without a word, 3 it never
ends.
"""

import json
import time
from pathlib import Path

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedsyn.federation import config as configuration
from fedsyn.federation import records

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid, context):
    asked = context.run_config
    config = configuration.load(asked["config"], json.loads(asked["overrides"]))
    out, rounds = Path(asked["out"]), config.run.rounds
    said = {"round": 0, "rounds": rounds, "nodes": [], "missing": [], "error": None}
    if config.run.seed == 2:
        raise ValueError("the dog has eaten the homework")
    records.write_text(out / "config.toml", configuration.dump(config))
    for number in range(1, rounds + 1):
        row = {"round": number, "seconds": {"local": 1.0}, "bytes_up": 8, "bytes_down": 8}
        row |= {"losses": {}, "metrics": {"map": number / 10}}
        records.append_row(out, row)
        late = {"round": number, "node": str(next(iter(grid.get_node_ids()))), "why": "late"}
        said |= {"state": "running", "round": number, "missing": [late]}
        records.write_json(out / "status.json", said)
    if config.run.seed == 1:
        said |= {"state": "failed", "error": "no node has two pairs"}
        records.write_json(out / "status.json", said)
        raise ValueError("no node has two pairs")
    while config.run.seed == 3:
        time.sleep(1)
    records.write_json(out / "summary.json", {"rounds": rounds, "resumed": asked["resume"]})
    records.write_json(out / "status.json", said | {"state": "done"})
