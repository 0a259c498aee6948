"""Networks compiled for the processor with OpenVINO: the same layers in float32, in fewer passes over memory."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from autoseg.errors import SettingsError
from autoseg.inference.model import TrainedModel
from autoseg.inference.sliding_window import num_streams
from autoseg.networks.base import SegmentationNetwork

Compiler = Literal["none", "openvino"]
COMPILERS: tuple[Compiler, ...] = get_args(Compiler)


def compiled(model: TrainedModel, compiler: Compiler, device: str) -> TrainedModel:
    """A model whose network a compiler has translated; weights and results stay, but for rounding.

    Args:
        model: Its network lies on the CPU. One that is compiled already is returned as it is.
        compiler: "none" leaves it alone.
        device: Where it shall run.

    Raises:
        SettingsError: When the compiler is not installed, or cannot compute there.
    """
    if compiler == "none" or isinstance(model.network, CompiledNetwork):
        return model
    if torch.device(device).type != "cpu":
        raise SettingsError(f"--compile {compiler} computes on the CPU; leave it out for --device {device}")
    _openvino()  # that it is missing is said before anything is computed
    return replace(model, network=CompiledNetwork(model.network, name=model.record.configuration.network.name))


class CompiledNetwork(SegmentationNetwork):
    """A network in evaluation mode, translated when patches of a shape are first seen.

    Args:
        network: On the CPU, deep supervision off.
        name: What it is called in errors.
    """

    def __init__(self, network: SegmentationNetwork, *, name: str) -> None:
        super().__init__()
        self.deep_supervision = False
        self.name = name
        self._source = network
        self._queues: dict[tuple[int, ...], Any] = {}  # an inference queue per shape (c, ...)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, k, ...) of patches (b, c, ...), several at a time where they are small."""
        shape = tuple(x.shape[1:])
        if shape not in self._queues:
            self._queues[shape] = self._queue(shape)
        queue = self._queues[shape]
        answers: list[Tensor | None] = [None] * len(x)

        def keep(request: Any, index: int) -> None:  # noqa: ANN401 - OpenVINO's request
            answers[index] = torch.from_numpy(request.get_output_tensor(0).data.copy())

        queue.set_callback(keep)
        patches = x.float().contiguous().numpy()
        for index in range(len(x)):
            queue.start_async(patches[index : index + 1], index)
        queue.wait_all()
        return torch.cat([answer for answer in answers if answer is not None])

    def _queue(self, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - OpenVINO's queue
        openvino = _openvino()
        example = torch.zeros(1, *shape)
        threads = torch.get_num_threads()
        streams = num_streams(shape[1:], threads)
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's word on tracing: shapes are fixed here, nothing else varies
                traced = torch.jit.trace(self._source, example, check_trace=False)  # type: ignore[no-untyped-call]
                model = openvino.convert_model(traced, example_input=example)
            model.reshape([1, *shape])
            how = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams}
            return openvino.AsyncInferQueue(openvino.compile_model(model, "CPU", how), streams)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise SettingsError(
                f"OpenVINO cannot translate the network {self.name}: {reason}; predict without --compile openvino"
            ) from None


def _openvino() -> Any:  # noqa: ANN401 - a module that may be absent
    # Its telemetry would tell a server of every import and conversion, and wait for it where there is no network.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # makes importing it an ImportError
    try:
        import openvino
    except ImportError as error:
        raise SettingsError(
            f"--compile openvino needs OpenVINO ({error}): pip install 'autoseg[openvino]', or leave the option out"
        ) from None
    return openvino
