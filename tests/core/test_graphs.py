"""Recorded steps, with a stand-in for CUDA graphs: every call is one step, on its own inputs."""

import contextlib

import pytest
import torch

from fedsyn.core import graphs


class Graph:
    """Records calls instead of making them, as a CUDA graph does."""

    def replay(self):
        self.call()


@pytest.fixture
def gpu(monkeypatch):
    """A device that says it is a GPU; computations stay on the processor."""

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    return torch.device("cuda")


class Counter:
    """``total += x``; under a recording it only notes what to do."""

    def __init__(self, monkeypatch):
        self.total, self.output = torch.zeros(2), torch.zeros(2)
        self.runs = 0
        self.graph = None

        @contextlib.contextmanager
        def record(graph):
            self.graph = graph
            yield
            self.graph = None

        monkeypatch.setattr(torch.cuda, "graph", record)

    def __call__(self, x):
        def run():
            self.runs += 1
            self.total += x
            self.output.copy_(self.total)

        if self.graph is not None:
            self.graph.call = run
        else:
            run()
        return self.output


@pytest.mark.parametrize("recorded", [True, False])
def test_every_call_is_one_step_on_its_inputs(gpu, monkeypatch, recorded):
    function = Counter(monkeypatch)
    with graphs.recording(recorded):
        step = graphs.Step(function, gpu)
    found = [step(torch.full((2,), float(value))).clone() for value in (1, 2, 3, 4)]
    assert [value.tolist() for value in found] == [[1, 1], [3, 3], [6, 6], [10, 10]]
    assert function.runs == 4


def test_results_of_a_recording_stay_when_it_is_replayed(gpu, monkeypatch):
    with graphs.recording():
        step = graphs.Step(Counter(monkeypatch), gpu)
    step(torch.ones(2))
    second = step(torch.ones(2))
    step(torch.ones(2))
    assert second.tolist() == [2, 2]


def test_a_processor_records_nothing():
    seen = []
    with graphs.recording():
        step = graphs.Step(lambda x: seen.append(x) or x, torch.device("cpu"))
    given = [torch.ones(1), torch.zeros(1), torch.ones(1)]
    assert all(step(x) is x for x in given)
    assert all(a is b for a, b in zip(seen, given, strict=True))
