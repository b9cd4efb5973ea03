"""What a run may ask of a node: its configuration, held against the node's own."""

from pathlib import Path

from fedsyn.deployment.messages import Request
from fedsyn.deployment.node.settings import NodeConfig
from fedsyn.deployment.validation import RefusedError
from fedsyn.federation.config import Config, parse, with_overrides

CACHE = "cache"  # of descriptors, for all runs


def admitted(node: NodeConfig, message: Request) -> Config:
    """The run's configuration, if this node's own allows it, with what is the node's own.

    Raises
    ------
    RefusedError
        If it does not.
    """
    asked = parse(message.config, allowed=node.allow.plugins)
    # (A server names no files of a real silo.)
    teacher = node.teacher if node.data else node.teacher or asked.teacher.path
    config = with_overrides(
        asked,
        engine=node.engine.model_dump(),
        data={"cache": str(Path(node.state) / CACHE)},
        teacher={"path": teacher},
    )
    for key, name, allowed in (
        ("method.name", config.method.name, node.allow.methods),
        ("objective.name", config.objective.name, node.allow.objectives),
    ):
        if allowed and name not in allowed:
            raise RefusedError(
                f"{key} = {name!r} is not among those that this node allows: {allowed}"
            )
    if config.run.rounds > node.allow.max_rounds:
        raise RefusedError(
            f"run.rounds = {config.run.rounds}; "
            f"this node allows max_rounds = {node.allow.max_rounds}"
        )
    _check_prototypes(node, config)
    return config


def _check_prototypes(node: NodeConfig, config: Config) -> None:
    """Refuse prototypes of few pairs."""
    fewest = config.synthesis.min_cluster
    if config.synthesis_mode == "on" and fewest < node.allow.min_cluster:
        raise RefusedError(
            f"synthesis.min_cluster = {fewest}; "
            f"this node allows no prototype of fewer than min_cluster = {node.allow.min_cluster}"
        )
