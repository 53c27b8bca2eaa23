"""What all commands do before they work."""

import os
import signal
import subprocess
import time

import pytest
from conftest import ROOT
from faults_test import recipe  # noqa: F401
from resume_test import steps_written


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_waiting_threads_spin_shortly_unless_told_otherwise(commands, recipe, tmp_path, given):  # noqa: F811
    """libgomp reads its settings when it is loaded, so the command starts itself again: as the same
    process, under its name, with its arguments, and signals work."""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    call = [str(commands.path("qat-train")), str(recipe()), "--set", "train.batch=1"]
    process = subprocess.Popen(call, cwd=ROOT, env={**clean, **given}, stderr=subprocess.DEVNULL)
    try:
        while steps_written(tmp_path / "run") < 1:
            assert process.poll() is None
            time.sleep(0.01)
        proc = f"/proc/{process.pid}"
        environment = dict(e.split("=", 1) for e in open(f"{proc}/environ").read().split("\0") if "=" in e)
        assert environment.get("OMP_WAIT_POLICY") == given.get("OMP_WAIT_POLICY")
        expected = given.get("GOMP_SPINCOUNT", None if given else environment.get("GOMP_SPINCOUNT"))
        assert environment.get("GOMP_SPINCOUNT") == expected
        assert given or expected is not None
        assert open(f"{proc}/comm").read().strip() == "qat-train"
        assert open(f"{proc}/cmdline").read().split("\0")[:-1] == call
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait() == 85
