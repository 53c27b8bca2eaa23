"""scripts/quickstart, cut to a few steps: a real model from a GGUF file to a table and exports."""

import json
import subprocess

from conftest import ROOT
from safetensors.numpy import load_file


def test_quickstart(commands, smollm2, tmp_path):
    commands.path("qat-train")
    out = tmp_path / "quickstart"
    settings = ["train.steps=3", "train.warmup_bf16=1", "train.enable.layers=15",
                "train.enable.every=1", "train.schedule.warmup=1", "data.sequence=64",
                "evaluate.max_windows=2", "generate.max_tokens=8"]  # fmt: skip
    call = [ROOT / "scripts" / "quickstart", "--out", out]
    for setting in settings:
        call += ["--set", setting]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3
    json.loads((out / "result.json").read_text())
    exported = out / "export" / "compressed-tensors"
    config = json.loads((exported / "config.json").read_text())
    assert config["model_type"] == "llama" and config["num_hidden_layers"] == 30
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert (exported / "tokenizer.json").is_file()
    tensors = load_file(exported / "model.safetensors")
    codes = [t for name, t in tensors.items() if name.endswith("_proj.weight")]
    assert len(codes) == 210 and all(t.dtype == "int8" for t in codes)
