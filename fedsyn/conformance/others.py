"""Whether tasks, teachers and client selections keep what their families promise."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsyn.conformance.claims import Claims, check_options
from fedsyn.conformance.objective import check_training
from fedsyn.conformance.runs import check_runs
from fedsyn.conformance.world import world
from fedsyn.data.sections import DataConfig
from fedsyn.encoders.base import Teacher, TeacherConfig
from fedsyn.federation.selection.base import Selection, share_of
from fedsyn.settings.loading import over
from fedsyn.settings.plugins import Tree
from fedsyn.tasks.base import Task

HALF: Tree = {"run": {"fraction": 0.5}}  # of the clients


def check_task(task: Task, /, **settings: Any) -> None:
    """Try a task under federated averaging.

    What is checked: its problem is of the class that it says; clients trained together are as they
    are alone; its scores are those of its table; whole runs give the same bits when they are
    resumed, and over nodes where the task can be imported.

    Parameters
    ----------
    task : Task
    **settings
        Sections of a configuration.

    Raises
    ------
    PluginError
        That says in one sentence what is not so.
    """
    claims = Claims(f"task {task.name!r}")
    check_options(claims, task)
    with world(claims, settings, task=task) as there:
        problem = there.fed.problem
        claims.hold(
            isinstance(problem, task.problem),
            f"build makes a {type(problem).__name__}; expected a {task.problem.__name__}",
        )
        check_training(claims, there)
        model = torch.zeros(problem.net.layout.size)
        rows = torch.from_numpy(there.fed.data.test)
        with claims.own_streams("outputs and score"):
            found = problem.outputs(model, rows)
            probed = problem.outputs(model, problem.probed)
            scored = problem.score(problem.probe(found, probed), rows)
        claims.hold(
            any(name in scored for name in task.metrics.headlines),
            f"score gives {sorted(scored)}, and none of the table's headlines "
            f"{list(task.metrics.headlines)}",
        )
        check_runs(claims, there)


def check_teacher(teacher: Teacher, pixels: np.ndarray | None = None, **options: Any) -> None:
    """Try a teacher on pictures and words.

    What is checked: unit rows of one width for pictures and texts, the same when it is asked again,
    each whatever stands beside it; a positive scale.

    Parameters
    ----------
    teacher : Teacher
    pixels : array of shape [n, H, W] or [n, H, W, 3] uint8, optional
    **options
        Of the section ``[teacher]``.

    Raises
    ------
    PluginError
        That says in one sentence what is not so.
    """
    claims = Claims(f"teacher {teacher.name!r}")
    check_options(claims, teacher)
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16), dtype=np.uint8)
    data = options.pop("data", DataConfig(cache=""))
    with claims.calling("load"):
        encoder = teacher.load(TeacherConfig(name=teacher.name, **options), data, 6)
    words = ["a dark picture", "a bright picture", "something else"]
    with claims.own_streams("an encoding"):
        images, texts = encoder.pictures(pixels), encoder.texts(words)
        again, single = encoder.pictures(pixels), encoder.texts(words[1:2])
    for what, rows, number in (("pictures", images, len(pixels)), ("texts", texts, len(words))):
        claims.rows(what, rows, number)
        claims.hold(rows.dim() == 2, f"{what} are {list(rows.shape)}; expected [{number}, d]")
        claims.finite(what, rows)
        claims.close(f"the length of {what}", rows.norm(dim=-1), _ones(rows), "from one")
    claims.hold(images.shape[1] == texts.shape[1], "pictures and texts have other widths")
    claims.close("a picture", again, images, "when it is asked again")
    claims.close("a text", single, texts[1:2], "where it stands alone")
    claims.hold(encoder.scale > 0, f"scale is {encoder.scale}; expected a positive number")


def _ones(rows: Tensor) -> Tensor:
    return torch.ones(len(rows), dtype=rows.dtype)


def check_selection(selection: Selection, /, **settings: Any) -> None:
    """Try a client selection, and small runs in which half of the clients do a round.

    What is checked: as many different clients as are asked for, ascending, the same for the same
    round; what is remembered are tensors; whole runs give the same bits when they are resumed, and
    over nodes where the selection can be imported.

    Parameters
    ----------
    selection : Selection
    **settings
        Sections of a configuration.

    Raises
    ------
    PluginError
        That says in one sentence what is not so.
    """
    claims = Claims(f"client selection {selection.name!r}")
    check_options(claims, selection)
    with world(claims, over(HALF, settings), selection=selection) as there:
        config, clients = there.config.run, len(there.fed.silos)
        with claims.own_streams("begin"):
            memory = claims.payload("memory", selection.begin(clients, config))
        number = share_of(clients, config.fraction)
        for round_number in range(1, 4):
            with claims.own_streams("choose"):
                one, other = (
                    selection.choose(memory, clients, number, round_number, config)
                    for _ in range(2)
                )
            claims.hold(one == other, f"round {round_number} has other clients when asked again")
            right = list(one) == sorted({client for client in one if 0 <= client < clients})
            claims.hold(
                right and len(one) == number,
                f"round {round_number} has the clients {list(one)}; expected {number} of "
                f"{clients}, ascending",
            )
        check_runs(claims, there)
