"""What Flower starts for a run: ``app``.

Its run configuration names the fedsyn configuration (``config``, a TOML file on the server), keys
that override it (``overrides``, a JSON list of ``section.key=value``), the run directory (``out``)
and whether a run there goes on (``resume``).
"""

import json
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsyn.deployment.flower.grid import GridTransport
from fedsyn.deployment.server import serve
from fedsyn.federation import config as configuration

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation as configured."""
    asked = context.run_config
    path, overrides = str(asked.get("config", "")), json.loads(str(asked.get("overrides", "[]")))
    config = configuration.load(Path(path) if path else None, overrides)
    serve(
        config,
        Path(str(asked["out"])),
        GridTransport(grid),
        resume=bool(asked.get("resume", False)),
    )
