"""Our own training step in a CUDA graph: the host launches one thing instead of some thousand kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.benchmarks.contenders import Contender, Form, Network, Training

#: Steps that are taken, all with the first draws, before one is captured.
CAPTURE_WARM_UP = 3


def graphed_probediff(sizes: Network, x_0: Tensor, precision: str) -> Contender:
    """Our own training step with its work captured once in a CUDA graph and replayed; needs a GPU.

    The random numbers are drawn as always and copied into the tensors that the graph reads; dropout takes its seed from
    the global generator when the graph is replayed.
    """
    training = Training(sizes, x_0, precision, Form(), capturable=True)
    inputs = training.draws()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), training.dropout():
        for _ in range(CAPTURE_WARM_UP):
            training.learn(inputs)
        training.optimizer.zero_grad()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        training.learn(inputs)

    def step() -> None:
        draws = training.draws()
        for name in ("timestep", "eps", "flip"):
            getattr(inputs, name).copy_(getattr(draws, name))
        with training.dropout():
            graph.replay()

    return Contender(training.module.eps_model, training.gflop_per_image, step)
