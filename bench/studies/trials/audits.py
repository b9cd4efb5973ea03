"""Audits of runs that record their uploads, some at a time; the uploads go when they are done."""

import multiprocessing
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fedsyn.errors import FedsynError
from fedsyn.federation import records


def execute(folders: Sequence[Path], workers: int | None = None) -> dict[Path, str]:
    """Audit the runs in these folders that have uploads; why audits failed that did, by folder."""
    waiting = [one for one in dict.fromkeys(folders) if (one / records.UPLOADS).is_dir()]
    if not waiting:
        return {}
    failures = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as pool:
        running = {folder: pool.submit(_audit, folder) for folder in waiting}
        for folder, future in running.items():
            try:
                future.result()
            except FedsynError as error:
                failures[folder] = f"not audited: {error}"
    return failures


def _audit(folder: Path) -> None:
    from fedsyn.audit import audit

    audit(folder)
    shutil.rmtree(folder / records.UPLOADS)
