"""What each network costs beside `unet`: parameters, memory and time of a training step on one small 3D patch.

    python benchmarks/networks.py [--patch 32 32 64] [--networks unet uxnet ...]

Every network is planned by its own rules for isotropic voxels, with its published width, and trains in a process of its
own on the CPU in float32, a batch of two. "Estimated" is what the planner expects to be alive at the peak of a step,
weights, gradients and AdamW's moments included; "measured" is the growth of the process's resident memory. Seconds are
processor time of one thread, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 1024**2
BATCH_SIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One network: its patch, parameters, memory in MiB and processor seconds of the fastest step."""

    name: str
    patch: tuple[int, ...]
    parameters: int
    estimated: float
    measured: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=(32, 32, 64))
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asdict(measure(arguments.one, tuple(arguments.patch), arguments.steps))))
        return
    from autoseg.networks.catalog import RULES

    print("| network | patch | parameters, million | estimated, MB | measured, MB | s per step |")
    print("|---|---|---|---|---|---|")
    for name in arguments.networks or RULES:
        print(row(in_own_process(name, arguments.patch, arguments.steps)), flush=True)


def in_own_process(name: str, patch: tuple[int, ...], steps: int) -> Cost:
    command = [sys.executable, __file__, "--one", name, "--steps", str(steps), "--patch", *map(str, patch)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"{name}: {answer.stderr}")
    return Cost(**json.loads(answer.stdout))


def measure(name: str, size: tuple[int, ...], steps: int) -> Cost:
    import torch

    from autoseg.labels import LabelScheme
    from autoseg.losses.factory import build_loss
    from autoseg.networks.catalog import network_rules
    from autoseg.networks.factory import build_network
    from autoseg.networks.memory import estimate_memory
    from autoseg.planners.network_planning import plan_network, topology_for

    torch.set_num_threads(1)
    torch.manual_seed(0)
    labels = LabelScheme.from_table({"background": 0, "a": 1, "b": 2}, where="benchmark")
    rules = network_rules(name)
    topology = topology_for(rules, (1.0,) * 3, size)
    plan = plan_network(name, rules, topology)
    found = estimate_memory(
        plan,
        patch_size=topology.patch_size,
        batch_size=BATCH_SIZE,
        num_channels=1,
        labels=labels,
        precision="float32",
    )
    before = resident("VmRSS")
    network = build_network(plan, num_channels=1, num_outputs=labels.num_outputs)
    criterion = build_loss(
        "dice_ce", labels=labels, batch_dice=True, num_scales=len(plan.output_strides), supervision=plan.supervision
    )
    optimizer = torch.optim.AdamW(network.parameters())
    images = torch.randn(BATCH_SIZE, 1, *topology.patch_size)
    target = torch.randint(0, 3, images.shape, dtype=torch.int16)
    targets = [target[(..., *(slice(None, None, s) for s in stride))] for stride in plan.output_strides]
    seconds = []
    for _ in range(steps):
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        criterion(network(images), targets).backward()
        optimizer.step()
        seconds.append(time.process_time() - started)
    return Cost(
        name=name,
        patch=topology.patch_size,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        estimated=(max(found.peak, 2 * found.parameters) + 3 * found.parameters) / MIB,
        measured=(resident("VmHWM") - before) / MIB,
        seconds=min(seconds),
    )


def resident(field: str) -> int:
    """Bytes of this process's memory, "VmRSS" now or "VmHWM" at its highest; Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def row(cost: Cost) -> str:
    patch = "x".join(map(str, cost.patch))
    return (
        f"| `{cost.name}` | {patch} | {cost.parameters / 1e6:.2f} | {cost.estimated:.0f} | {cost.measured:.0f} | "
        f"{cost.seconds:.2f} |"
    )


if __name__ == "__main__":
    main()
