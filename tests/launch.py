"""Commands in two processes of ``accelerate launch``, on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

LIMIT = 300
"""Seconds until two processes are taken to hang."""


def launch(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a module with arguments in two processes; with ``--cpu`` accelerate starts only one."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = f"--multi_gpu --num_processes 2 --num_machines 1 --main_process_port {port}"
    quiet = "--mixed_precision no --dynamo_backend no --num_cpu_threads_per_process 1"
    program = ["-m", "accelerate.commands.accelerate_cli", "launch", *f"{options} {quiet}".split()]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")
    }
    return subprocess.run(
        [sys.executable, *program, "-m", module, *map(str, arguments), "--device", "cpu"],
        env=environment | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
