"""Stacked optimisers move each row as torch moves one."""

import pytest
import torch

from fedsyn.core.optim import Optimizer, rows


class TestOptimizer:
    @pytest.mark.parametrize(
        ("mine", "peer"),
        [
            (Optimizer("adam", 0.1), lambda p: torch.optim.Adam(p, 0.1)),
            (
                Optimizer("adam", 0.1, (0.0, 0.9), weight_decay=0.3),
                lambda p: torch.optim.Adam(p, 0.1, (0.0, 0.9), weight_decay=0.3),
            ),
            (
                Optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.2),
                lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.2),
            ),
            (Optimizer("sgd", 0.1), lambda p: torch.optim.SGD(p, 0.1)),
            (
                Optimizer("rmsprop", 0.1, weight_decay=0.2),
                lambda p: torch.optim.RMSprop(p, 0.1, weight_decay=0.2),
            ),
        ],
    )
    def test_each_row_moves_as_under_torch(self, mine, peer):
        start = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        params, state = start.clone(), mine.init(start)
        peers = [row.clone().requires_grad_() for row in start]
        optimizers = [peer([p]) for p in peers]
        for step in range(4):
            active = 3 if step < 2 else 2  # the last client stops early
            gradient = torch.randn(active, 5, generator=torch.Generator().manual_seed(step))
            mine.step(params[:active], gradient, rows(state, active))
            for client in range(active):
                peers[client].grad = gradient[client]
                optimizers[client].step()
        torch.testing.assert_close(params, torch.stack(peers).detach())
        assert state["step"].tolist() == [4, 4, 2]
