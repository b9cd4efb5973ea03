"""The run directory: what a run leaves behind, each file written whole or appended by lines."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from fedsyn.errors import RunError
from fedsyn.federation.config import Config
from fedsyn.metrics.table import MetricTable

Row = dict[str, Any]

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
MODEL = "model.safetensors"
PREPROCESSING = "preprocessing.safetensors"
PARTITION = "partition.json"
GALLERY = "gallery.json"
TRACE = "trace.json"
STATUS = "status.json"  # of a run over nodes: how it is going
CLIENTS = "clients.safetensors"  # beside a checkpoint: what clients keep, beyond the memory
UPLOADS = "uploads"  # of each round, where they are recorded
CHECKPOINT = Path("checkpoint") / "state.safetensors"


def create(out: Path) -> None:
    """Make the run directory.

    Raises
    ------
    RunError
        If it already holds something, or cannot be made.
    """
    try:
        if out.is_dir() and any(out.iterdir()):
            hint = "; continue it with --resume" if (out / CONFIG).exists() else ""
            raise RunError(f"output folder {str(out)!r} is not empty{hint}")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"output folder {str(out)!r} cannot be made: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Write a file whole: beside its place first, then moved there."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; numbers that are not finite become null."""
    write_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file of tensors whole."""
    partial = path.with_name(path.name + ".partial")
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial)
    os.replace(partial, path)


def append_row(out: Path, row: Row) -> None:
    """Append one round to ``metrics.jsonl``."""
    with (out / METRICS).open("a", encoding="utf-8") as file:
        file.write(_line(row))


def write_rows(out: Path, rows: Sequence[Row]) -> None:
    """Write ``metrics.jsonl`` whole."""
    write_text(out / METRICS, "".join(map(_line, rows)))


def _line(row: Row) -> str:
    return json.dumps(plain(row)) + "\n"


def keep_rows(out: Path, number: int) -> list[Row]:
    """Cut ``metrics.jsonl`` to its first ``number`` rows and return them: later ones, written after
    the checkpoint or torn by a crash, will be computed again.
    """
    path = out / METRICS
    lines = path.read_text(encoding="utf-8").splitlines()[:number] if path.exists() else []
    if len(lines) < number:
        raise RunError(f"{str(path)!r} has {len(lines)} rows; its checkpoint has {number}")
    write_text(path, "".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines]


def plain(value: Any) -> Any:
    """Nested data with NaN and infinities replaced by ``None``: JSON has no words for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return plain_object(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def plain_object(value: Mapping[str, Any]) -> dict[str, Any]:
    """`plain` of one JSON object."""
    return {key: plain(item) for key, item in value.items()}


def held_out_loss(row: Row) -> float:
    """The criterion on held-out pairs after a round; infinite where there are none."""
    value = row["losses"].get("holdout")
    return math.inf if value is None or math.isnan(value) else value


def chosen_rounds(rows: Sequence[Row], table: MetricTable) -> dict[str, Row]:
    """The evaluated rounds that a summary reports.

    ``last``; ``best`` by the task's headline on the test rows, which only a benchmark can know;
    ``selected`` by the lowest criterion on held-out rows, which only clients look at (the last,
    where no client holds any out).
    """
    judged = [row for row in rows if "metrics" in row]

    def score(row: Row) -> float:
        value = row["metrics"].get(table.headline(row["metrics"]))
        return -math.inf if value is None or math.isnan(value) else value

    selected = min(judged, key=held_out_loss)
    if math.isinf(held_out_loss(selected)):
        selected = judged[-1]
    return {"last": judged[-1], "best": max(judged, key=score), "selected": selected}


def uploads_of(config: Config, out: Path | None, round_number: int) -> Path | None:
    """Where a round's uploads are recorded; nowhere unless ``run.record_uploads`` is set."""
    if out is None or not config.run.record_uploads:
        return None
    return out / UPLOADS / f"round-{round_number}.safetensors"
