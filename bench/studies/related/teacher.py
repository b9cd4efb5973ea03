"""The teacher of emoji: trained on line drawings of the training rows, in all classes alike."""

from pathlib import Path

from fedsyn.federation import compare, config
from fedsyn.federation.compare import Job
from studies.related import rows
from studies.trials.runs import key

# Colours it never sees; 5 % of its rows are set aside, since a run needs some to test.
SETTINGS = (
    *("task=retrieval", "method=centralised", "synthesis.enabled=false", "partition.scheme=iid"),
    *("data.test_fraction=0.05", "objective.temperature=0.07", "run.rounds=30"),
    "engine.threads=1",
)


def of_emoji(file: Path, runs: Path) -> list[str]:
    """Overrides that name the teacher; it is trained, in seconds, where it is not there yet.

    Raises
    ------
    FedsynError
        If it cannot be trained.
    """
    drawings = runs / "line-drawings.npz"
    rows.line_drawings(file, drawings)
    settings = config.load(None, [*SETTINGS, f"data.path={drawings}"])
    job = Job(settings, runs / key(settings))
    compare.execute([job], workers=1)
    return ["teacher.name=run", f"teacher.path={job.out}"]
