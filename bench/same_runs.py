"""Whether two checkouts compute the same: a hundred small runs by each, compared bit by bit.

    python bench/same_runs.py OLD NEW [--only NAME ...] [--keep DIR]

OLD and NEW are checkouts, each with its own ``.venv`` (``make .venv/installed``). Every method,
task and objective is run, every start, synthesis in all its modes, codes, sampled clients, stacks,
files in the place of memory, a resumed run, and nodes in one process. What OLD writes as
``config.toml`` is what NEW runs, so that files of the one are held to load with the other: a key
that NEW no longer has is a difference. Both sides run on one thread, one after the other.

Compared are ``metrics.jsonl`` but for the seconds, ``summary.json`` but for seconds and version,
``partition.json``, ``gallery.json``, and all tensors of the model and the preprocessing. Bytes are
compared too, apart: a difference in them alone is listed as such.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BYTES = ("bytes_up", "bytes_down")
TIMES = ("seconds", "seconds_total", "version")
TENSORS = ("model.safetensors", "preprocessing.safetensors")
OBJECTS = ("summary.json", "partition.json", "gallery.json")

PAIRS = [
    "data.path={data}/pairs.npz", "partition.min_size=2", "model.hidden=[12]", "model.dim=8",
    "method.batch=16", "synthesis.generator=wgan-gp", "synthesis.direct=0.1",
    "synthesis.indirect=0.1", "synthesis.jsd=0.1", "synthesis.prototypes=4", "synthesis.noise=6",
    "synthesis.hidden=[10]", "synthesis.critic_hidden=[10]", "synthesis.steps=3",
    "synthesis.critic_warmup=4", "synthesis.batch=12", "synthesis.candidates=128",
    "synthesis.global_prototypes=6", "synthesis.server_steps=4", "synthesis.server_batch=32",
    "run.rounds=3", "engine.threads=1", "data.cache=", "engine.checkpoint_seconds=0",
]  # fmt: skip
PICTURES = [
    "data.path={data}/pictures.npz", "data.public=0.2", "partition.min_size=2",
    "partition.alpha=1.0", "model.channels=[8]", "model.hidden=[8]", "model.dim=6",
    "method.batch=64", "objective.moco.queue=64", "method.ccl.features=4", "method.ccl.remote=12",
    "method.ccl.warmup=1", "run.rounds=2", "engine.threads=1", "data.cache=",
]  # fmt: skip
CLASSES = [
    *PICTURES, "task=image_classification", "partition.imbalance=4",
    "method.creff.repeats=2", "method.creff.draw=4", "method.creff.features=6",
    "method.creff.steps=4", "method.creff.classifier_epochs=3", "method.feddm.pictures=2",
    "method.feddm.steps=2", "method.feddm.draw=4",
]  # fmt: skip
TAUGHT = ["teacher.name=run", "teacher.path={out}/teacher"]
GLYPHS = ["run.rounds=2", "engine.threads=1", "data.cache="]
OWN = [*PAIRS, "synthesis.clusters=own", "synthesis.min_cluster=3"]
HALVES = [*PAIRS, "task=multimodal_classification", "partition.missing_image=0.2",
          "partition.missing_text=0.1", "run.rounds=2"]  # fmt: skip
ANSWERS = [*PAIRS, "task=vqa", "data.questions=0", "run.rounds=2"]

# The runs by name; ``+`` goes on with the run of that name in a second call.
RUNS: dict[str, list[str]] = {
    "glyphs": [*GLYPHS, "synthesis.candidates=1024"],
    "glyphs-wgan": [
        *GLYPHS, "synthesis.generator=wgan-gp", "synthesis.steps=2", "synthesis.critic_warmup=2",
        "synthesis.candidates=512", "data.faces=[\"serif\"]",
    ],
    "teacher": [
        "data.path={data}/pictures.npz", "data.cache=", "data.buckets=16", "data.image_dim=8",
        "data.text_dim=3", "model.dim=6", "partition.clients=2", "model.hidden=[8]", "run.rounds=1",
        "synthesis.enabled=false", "engine.threads=1",
    ],
    **{
        f"{method}-{mode}": [*PAIRS, f"method={method}", f"synthesis.enabled={enabled}"]
        for method in ("fedavg", "fedprox", "moon", "scaffold", "feddyn", "fednova", "fedadam",
                       "fedyogi", "pt_fuch")
        for mode, enabled in (("on", "true"), ("off", "false"))
    },
    "scaffold-drift": [*PAIRS, "method=scaffold", "method.scaffold.control=drift",
                       "method.optimizer=sgd", "run.fraction=0.5"],
    "pt_fuch-private": [*PAIRS, "method=pt_fuch", "method.pt_fuch.space=private"],
    "fedavg-uniform": [*PAIRS, "method.weighting=uniform", "method.optimizer=rmsprop"],
    "local": [*PAIRS, "method=local"],
    "centralised": [*PAIRS, "method=centralised"],
    "oracle": [*PAIRS, "synthesis.oracle=true"],
    "fedftg": [*PAIRS, "synthesis.server=fedftg", "run.fraction=0.5"],
    "fedftg-gaussian": [*PAIRS, "synthesis.server=fedftg", "synthesis.generator=gaussian"],
    "shared": [*PAIRS, "synthesis.share=clients", "synthesis.shared=40",
               "synthesis.shared_batch=6"],
    "shared-fedftg": [*PAIRS, "synthesis.share=clients", "synthesis.shared=40",
                      "synthesis.shared_batch=6", "synthesis.server=fedftg"],
    "completed": [
        *PAIRS, "synthesis.share=clients", "synthesis.complete=true", "synthesis.shared=40",
        "synthesis.shared_batch=6", "partition.single_modality=0.4", "partition.unpaired=0.2",
    ],
    **{f"start-{name}": [*PAIRS, f"model.start={name}"] for name in ("closed-form", "random")},
    "start-identity": [*PAIRS, "data.text=twin", "model.start=identity", "model.dim=0"],
    "start-frozen": [*PAIRS, "model.linear=frozen", "method=scaffold"],
    "cca": [*PAIRS, "method=cca", "model.bits=8"],
    "one-cluster": [*PAIRS, "synthesis.prototypes=1", "synthesis.generator=gaussian"],
    **{f"own-{name}": [*OWN, f"synthesis.directions={name}", "synthesis.generator=gaussian"]
       for name in ("pooled", "own", "none")},
    "own-wgan-gp": OWN,
    "own-sketched": [*GLYPHS, "synthesis.clusters=own", "synthesis.noise=64", "run.fraction=0.5"],
    "own-hidden": [*OWN, "synthesis.shrinkage=2", "synthesis.disclosed_noise=0.1"],
    "private-space": [*OWN, "synthesis.space=private", "run.fraction=0.5"],
    "global-encoder": [*PAIRS, "synthesis.encoder=global", "synthesis.line_search=[1.0]"],
    "server-alone": [*PAIRS, "synthesis.share=server", "synthesis.server_temperature=0"],
    "clients-alone": [*PAIRS, "synthesis.server_steps=0", "synthesis.generator=gaussian"],
    "frozen-encoder": [*PAIRS, "synthesis.encoder=frozen", "run.fraction=0.5"],
    "gaussian-float16": [*PAIRS, "synthesis.generator=gaussian", "synthesis.upload=float16"],
    "wgan-gp-float16": [*PAIRS, "synthesis.upload=float16", "run.fraction=0.5"],
    "clipped-cold": [*PAIRS, "synthesis.generator=wgan", "synthesis.warm_start=false",
                     "synthesis.condition=false", "run.fraction=0.5"],
    "some-rounds": [*PAIRS, "synthesis.first_round=2", "synthesis.last_round=2"],
    **{f"filter-{name}": [*PAIRS, f"synthesis.filter={name}", "synthesis.generator=gaussian"]
       for name in ("hard", "quantile", "agreement", "none")},
    **{f"objective-{name}": [*PAIRS, f"objective={name}"]
       for name in ("alignment_uniformity", "pcme", "ucch", "djsrh", "jdsh", "dgcpn", "cirh")},
    "learnable": [*PAIRS, "objective.learnable=true", "objective.temperature=0.3",
                  "run.criterion=alignment_uniformity", "run.evaluate_every=2"],
    **{f"codes-{name}": [*PAIRS, f"objective={name}", "model.bits=8"]
       for name in ("info_nce", "ucch", "dgcpn", "cirh")},
    "flash": [*PAIRS, "run.fraction=0.4", "run.selection=flash", "run.rounds=4"],
    "flash-alone": [*PAIRS, "run.fraction=0.4", "run.selection=flash", "run.rounds=4",
                    "synthesis.enabled=false"],
    "contribution": [*PAIRS, "method.weighting=contribution", "run.fraction=0.5"],
    "stacked": [*PAIRS, "engine.stack=3", "engine.threads=2", "run.fraction=0.7"],
    "in-files": [*PAIRS, "engine.memory=0", "engine.stack=4", "run.fraction=0.5"],
    "top-ranks": [*PAIRS, "run.ranking=top", "partition.scheme=dirichlet-clusters"],
    "resumed": [*PAIRS, "run.rounds=2", "run.fraction=0.6", "synthesis.share=clients",
                "synthesis.shared=40", "synthesis.shared_batch=6"],
    "resumed+": ["run.rounds=4"],
    "resumed-flash": [*PAIRS, "run.rounds=2", "run.fraction=0.4", "run.selection=flash",
                      "method=scaffold"],
    "resumed-flash+": ["run.rounds=4"],
    **{f"views-{name}": [*PICTURES, "task=representation", f"objective={name}"]
       for name in ("moco", "simclr", "byol", "info_nce", "alignment_uniformity")},
    "ccl": [*PICTURES, "method=ccl", "run.rounds=3"],
    "ccl-hidden": [*PICTURES, "method=ccl", "method.ccl.mixed=2", "method.ccl.signs=true",
                   "method.ccl.fusion=false", "run.rounds=3"],
    "fedfoa": [*PICTURES, "method=fedfoa"],
    **{f"classes-{method}": [*CLASSES, f"method={method}"]
       for method in ("fedavg", "creff", "fedalign", "feddm", "scaffold")},
    "classes-clip2fl": [*CLASSES, *TAUGHT, "method=clip2fl"],
    "clip2fl-glyphs": [
        *GLYPHS, "method=clip2fl", "run.rounds=1", "model.channels=[8]", "model.dim=16",
        "method.creff.repeats=1", "method.creff.draw=4", "method.creff.steps=3",
        "method.creff.classifier_epochs=2", "method.epochs=1",
    ],
    **{f"halves-{name}": [*HALVES, f"objective={name}", "objective.modality=0.5"]
       for name in ("cross_entropy", "ogm_ge", "opm")},
    **{f"halves-{method}": [*HALVES, f"method={method}"]
       for method in ("fedcmi", "mfcpl", "fedmac")},
    "halves-fedcmi-own": [*HALVES, "method=fedcmi", "method.fedcmi.projector=own",
                          "method.fedcmi.mu=0.1"],
    "answers": ANSWERS,
    "creamfl": [*PAIRS, "method=creamfl", "run.fraction=0.5", "model.variants=[[6], [5, 4]]"],
    "creamfl-mean": [*PAIRS, "method=creamfl", "method.creamfl.aggregation=mean"],
    "creamfl-answers": [*ANSWERS, "method=creamfl", "run.fraction=0.5"],
}  # fmt: skip

Shards = list[tuple[int, ...]]  # what each node holds
ALONE: Shards = [(client,) for client in range(10)]
SHARDS: Shards = [(0, 1, 2), (3,), (4, 5, 6, 7, 8, 9)]
# Runs over nodes in one process: their shards, and the overrides.
NODES: dict[str, tuple[Shards, list[str]]] = {
    "nodes-fedavg": (ALONE, PAIRS),
    "nodes-sampled": (ALONE, [*PAIRS, "run.fraction=0.4", "synthesis.upload=float16"]),
    "nodes-flash": (ALONE, [*PAIRS, "run.fraction=0.4", "run.selection=flash"]),
    "nodes-pt_fuch": (ALONE, [*PAIRS, "method=pt_fuch"]),
    "nodes-fedftg": (SHARDS, [*PAIRS, "synthesis.server=fedftg"]),
    "nodes-scaffold": (SHARDS, [*PAIRS, "method=scaffold", "engine.stack=4"]),
    "nodes-contribution": (SHARDS, [*PAIRS, "method.weighting=contribution"]),
    "nodes-completed": (ALONE, RUNS["completed"]),
    "nodes-own": (SHARDS, [*OWN, "synthesis.directions=own"]),
    "nodes-scatter": (ALONE, RUNS["own-pooled"]),
    "nodes-cca": (SHARDS, RUNS["cca"]),
    "nodes-creamfl": (ALONE, RUNS["creamfl"]),
    "nodes-ccl": (ALONE, RUNS["ccl"]),
}  # fmt: skip


def write_data(folder: Path) -> None:
    """Two views of six Gaussian classes, and pictures of four classes."""
    draw = np.random.default_rng(0)
    label = np.repeat(np.arange(6), 50)
    centre = draw.normal(size=(6, 4)) * 2
    shared = centre[label] + draw.normal(size=(300, 4))
    image = shared @ draw.normal(size=(4, 9)) + 0.3 * draw.normal(size=(300, 9))
    text = shared @ draw.normal(size=(4, 7)) + 0.3 * draw.normal(size=(300, 7))
    split = np.where(np.arange(300) % 5 == 0, "test", "train")
    twin = image[:, ::-1] + draw.normal(size=image.shape)  # texts of the images' width
    np.savez(folder / "pairs.npz", image=image, text=text, twin=twin, label=label, split=split)
    draw = np.random.default_rng(0)
    label = np.arange(120) % 4
    pixels = draw.integers(0, 90, (120, 10, 10)) + 50 * (label[:, None, None] % 2)
    pixels[label > 1, :5] += 60
    split = np.where(np.arange(120) % 5 == 0, "test", "train")
    text = np.array(["", "a", "b", "c"])[label]
    np.savez(
        folder / "pictures.npz", image=pixels.astype(np.uint8), text=text, label=label, split=split
    )


# ---- In the interpreter of a checkout ------------------------------------------------------------


def work(jobs: Sequence[dict[str, Any]]) -> None:
    """Do these runs by the package that is found here; what fails says so in its folder."""
    import traceback

    for job in jobs:
        print(job["name"], file=sys.stderr, flush=True)
        try:
            if "nodes" in job:
                _over_nodes(job["nodes"], job["arguments"], Path(job["out"]))
            else:
                _run([*job["arguments"], "--out", job["out"]])
        except Exception:
            Path(job["out"]).mkdir(parents=True, exist_ok=True)
            (Path(job["out"]) / "failed.txt").write_text(traceback.format_exc())


def _run(arguments: Sequence[str]) -> None:
    """One command, in this process: importing torch takes longer than most of them."""
    from fedsyn import cli

    sys.argv = ["fedsyn", "run", "--quiet", "--debug", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit code {end.code}") from None


# Where a checkout has what runs over nodes of one process are made of.
INTERFACES = (
    ("fedsyn.federation.config:load", "fedsyn.config:load"),
    ("fedsyn.deployment.node:NodeConfig", "fedsyn.engine.flower.node:NodeConfig"),
    ("fedsyn.deployment.node:answer", "fedsyn.engine.flower.node:answer"),
    ("fedsyn.deployment.server:serve", "fedsyn.engine.flower.server:serve"),
)


def _first(*places: str) -> Any:
    """The first of some objects, each ``module:name``, that there is."""
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError:
            continue
    raise ImportError(f"this checkout has none of {places}")


def _over_nodes(nodes: Sequence[Sequence[int]], overrides: Sequence[str], out: Path) -> None:
    """One run over nodes of this process, by whichever interface the checkout has."""
    load, node_config, answer, serve = (_first(*places) for places in INTERFACES)
    config = load(None, overrides)
    held = {
        100 + number: node_config(
            clients=tuple(clients), state=f"{out}-node-{number}", engine=config.engine
        )
        for number, clients in enumerate(nodes)
    }

    class Transport:
        """Messages of one process."""

        def nodes(self) -> list[int]:
            return sorted(held)

        def exchange(self, kind: str, messages: Any, timeout: float) -> Any:
            return {node: answer(held[node], kind, one) for node, one in messages.items()}

    serve(config, out, Transport())


# ---- Both sides, and what they left --------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Something that two runs have not in common."""

    where: str
    old: object
    new: object
    only_bytes: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {_short(self.old)} -> {_short(self.new)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 100 else text[:97] + "..."


def compare(old: Path, new: Path) -> list[Difference]:
    """All that differs between two run directories."""
    for folder in (old, new):
        if (folder / "failed.txt").exists():
            last = (folder / "failed.txt").read_text().strip().splitlines()[-1]
            return [Difference(str(folder), "a run", last)]
    found = list(_different("metrics.jsonl", _rows(old), _rows(new)))
    for name in OBJECTS:
        found += _different(name, _object(old / name), _object(new / name))
    for name in TENSORS:
        found += _different_tensors(name, old / name, new / name)
    return found


def _rows(folder: Path) -> list[Any]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _object(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _different(where: str, old: Any, new: Any) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if key not in TIMES:
                yield from _different(f"{where}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _different(f"{where}[{number}]", *pair)
    elif type(old) is not type(new) or old != new:
        yield Difference(where, old, new, where.endswith(BYTES))


def _different_tensors(name: str, old: Path, new: Path) -> Iterator[Difference]:
    from safetensors.numpy import load_file

    first, second = (load_file(path) if path.exists() else {} for path in (old, new))
    for key in {**first, **second}:
        one, other = first.get(key), second.get(key)
        same = (
            one is not None
            and other is not None
            and (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
        )
        if not same:
            yield Difference(f"{name}.{key}", one, other)


def jobs_of(
    side: Path, data: Path, only: Sequence[str], configured: Path | None
) -> list[dict[str, Any]]:
    """The runs of a side; by the ``config.toml`` that another has left where there is one."""
    jobs: list[dict[str, Any]] = []
    for name, overrides in RUNS.items():
        goes_on = name.endswith("+")
        plain = name.removesuffix("+")
        arguments = [value.format(data=data, out=side) for value in overrides]
        if goes_on:
            arguments += ["--resume"]
        elif configured is not None:
            moved = [value for value in arguments if value.startswith("teacher.path=")]
            arguments = [str(configured / plain / "config.toml"), *moved]
            arguments += ["run.rounds=2"] if f"{plain}+" in RUNS else []
        if not only or plain in only:
            jobs.append({"name": name, "arguments": arguments, "out": str(side / plain)})
    for name, (nodes, overrides) in NODES.items():
        arguments = [value.format(data=data, out=side) for value in overrides]
        if not only or name in only:
            own = f"flower.nodes={len(nodes)}"
            jobs.append(
                {"name": name, "arguments": [*arguments, own], "nodes": nodes,
                 "out": str(side / name)}
            )  # fmt: skip
    return jobs


def start(checkout: Path, jobs: Sequence[dict[str, Any]], file: Path) -> "subprocess.Popen[bytes]":
    """A process of a checkout's interpreter that does the jobs."""
    file.write_text(json.dumps(jobs))
    python = checkout / ".venv" / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.Popen(
        [python, Path(__file__).absolute(), "--work", file], cwd=checkout, env=environment
    )


def main() -> int:
    """Run both sides and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="OLD NEW")
    parser.add_argument("--only", nargs="+", default=[], help="names of runs")
    parser.add_argument("--keep", type=Path, help="keep the runs here; OLD's are not run again")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(json.loads(given.work.read_text()))
        return 0
    if len(given.checkouts) != 2:
        parser.error("expected two checkouts, OLD and NEW")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).absolute()
        old, new = folder / "old", folder / "new"
        for side in (old, new):
            side.mkdir(parents=True, exist_ok=True)
        write_data(folder)
        first = [j for j in jobs_of(old, folder, given.only, None) if not _there(Path(j["out"]))]
        if first and start(given.checkouts[0].absolute(), first, folder / "old.json").wait():
            return 1
        _clear(new)
        second = jobs_of(new, folder, given.only, old)
        if start(given.checkouts[1].absolute(), second, folder / "new.json").wait():
            return 1
        names = list(dict.fromkeys(job["name"].removesuffix("+") for job in second))
        return _report(names, old, new)


def _there(out: Path) -> bool:
    return (out / "summary.json").exists()


def _clear(side: Path) -> None:
    import shutil

    shutil.rmtree(side)
    side.mkdir()


def _report(names: Sequence[str], old: Path, new: Path) -> int:
    different = other_bytes = 0
    for name in names:
        found = compare(old / name, new / name)
        real = [one for one in found if not one.only_bytes]
        different += bool(real)
        other_bytes += bool(found) and not real
        word = "DIFFERENT" if real else "bytes differ" if found else "identical"
        print(f"{name:<28}{word}")
        for one in (real or found)[:4]:
            print(f"    {one}")
    same = len(names) - different - other_bytes
    print(f"{same} of {len(names)} identical, {other_bytes} but for bytes, {different} different")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
