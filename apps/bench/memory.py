"""``python -m apps.bench.memory``: peak memory of one sample, in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

import psutil
import torch

from apps.bench.models import subject
from apps.bench.settings import BenchSettings
from guidance import guide, parse_rule

BATCH = 2
RULE = "CFG(5)"


def peak_memory(model: str, settings: BenchSettings, batching: str) -> int:
    """Bytes that a guided sample needs at its peak beyond the loaded model.

    Args:
        model: name of the subject, which makes a batch of ``BATCH``.
        settings: device, dtype and so on.
        batching: ``"joint"`` or ``"sequential"``.
    """
    given = asdict(settings) | {"models": [model], "parts": ["memory"], "out": str(settings.out)}
    what = f"memory of {model}, {batching},"
    return int(in_own_process("apps.bench.memory", [json.dumps(given), batching], what))


def in_own_process(module: str, arguments: Sequence[str], what: str) -> str:
    """The last line that a module prints.

    Raises:
        ValueError: it fails; says that ``what`` cannot be measured.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.splitlines() or ["no message"])[-1]
        raise ValueError(f"{what} cannot be measured: {last}")
    return done.stdout.splitlines()[-1]


def peak_resident() -> int:
    """Most bytes that this process has had in memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak(model: str, settings: BenchSettings, batching: str) -> int:
    made = subject(model, settings, BATCH)
    cuda = made.pipe.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else psutil.Process().memory_info().rss
    with guide(made.pipe, parse_rule(RULE), batching=batching):
        made.sample(2.0, num_inference_steps=1)
    if cuda:
        return torch.cuda.max_memory_allocated() - before
    return peak_resident() - before


if __name__ == "__main__":
    given, batching = json.loads(sys.argv[1]), sys.argv[2]
    settings = BenchSettings(**given)
    print(_peak(settings.models[0], settings, batching))
