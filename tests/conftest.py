"""Shared by the interoperability tests: where the commands, the real models and the texts are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Commands:
    """Runs build/bin/NAME. The time limits are there for what hangs: a slow machine stays below."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, name: str) -> Path:
        found = self.folder / name
        assert found.is_file(), f"{found} is missing; scripts/build makes it"
        return found

    def complete(self, name: str, *arguments, expect: int, cwd: Path) -> subprocess.CompletedProcess:
        call = [str(self.path(name)), *map(str, arguments)]
        done = subprocess.run(call, capture_output=True, text=True, timeout=3600, cwd=cwd)
        assert done.returncode == expect, (
            f"{' '.join(call)}\nended with {done.returncode}, expected {expect}\n"
            f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        return done

    def run(self, name: str, *arguments, expect: int = 0) -> str:
        """Standard output of the command, which must end with the code `expect`."""
        return self.complete(name, *arguments, expect=expect, cwd=ROOT).stdout

    def said(self, name: str, *arguments, cwd: Path = ROOT) -> str:
        """All that a command that succeeds writes, the log included."""
        done = self.complete(name, *arguments, expect=0, cwd=cwd)
        return done.stdout + done.stderr

    def start(self, name: str, *arguments, output: Path) -> subprocess.Popen:
        """The command, running; what it says goes on at the end of the file `output`."""
        call = [str(self.path(name)), *map(str, arguments)]
        with open(output, "ab") as file:
            return subprocess.Popen(call, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

    def json(self, name: str, *arguments, **options):
        """The last line of standard output, read as JSON."""
        return json.loads(self.run(name, *arguments, **options).strip().splitlines()[-1])


@pytest.fixture(scope="session")
def commands() -> Commands:
    return Commands(Path(os.environ.get("QAT_BIN", ROOT / "build" / "bin")))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real models and texts."""
    folder = os.environ.get("QAT_TEST_DATA")
    if not folder:
        pytest.skip("QAT_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def stories(data) -> Path:
    return data / "stories260k"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as GGUF, if scripts/fetch model brought it."""
    found = ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not found.is_file():
        pytest.skip("run scripts/fetch model for SmolLM2")
    return found


@pytest.fixture(scope="session")
def smollm2_folder(smollm2) -> Path:
    """The same model as a Hugging Face directory in float32, made by scripts/gguf_to_hf.py."""
    folder = smollm2.parent / "hf"
    if not (folder / "tokenizer.json").is_file():
        sys.path.insert(0, str(ROOT / "scripts"))
        import gguf_to_hf

        gguf_to_hf.convert(smollm2, folder)
    return folder


def run_recipe(commands: Commands, recipe: Path, out: Path, *arguments, **options) -> Path:
    """Trains a recipe into `out`; settings are given as key=value."""
    sets = [part for setting in arguments for part in ("--set", setting)]
    commands.run("qat-train", recipe, "--out", out, *sets, **options)
    return out


@pytest.fixture(scope="session")
def short_run(commands, data, tmp_path_factory) -> Path:
    """recipes/stories-w8a8.yaml, cut to 24 steps."""
    out = tmp_path_factory.mktemp("runs") / "stories"
    return run_recipe(
        commands, ROOT / "recipes" / "stories-w8a8.yaml", out, "train.steps=24",
        "train.warmup_bf16=4", "train.enable.every=3", "checkpoint.every=8",
        "export=[hf,hf-master,compressed-tensors]",
    )  # fmt: skip


@pytest.fixture(scope="session")
def ptq_run(commands, data, tmp_path_factory) -> Path:
    """The same recipe with no step at all: the source, quantized."""
    out = tmp_path_factory.mktemp("runs") / "stories-ptq"
    return run_recipe(
        commands, ROOT / "recipes" / "stories-w8a8.yaml", out, "train.steps=0",
        "train.warmup_bf16=0", "train.schedule.warmup=0", "export=[hf,hf-master,compressed-tensors]",
    )  # fmt: skip
