"""config.json as transformers writes it: every key of every family's class is known."""

import json
import shutil

import pytest
from conftest import ROOT
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=512)  # fmt: skip


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_defaults_are_known(commands, stories, data, tmp_path, kind):
    config = kind(**SIZES)
    model = tmp_path / "model"
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(stories / name, model / name)
    saved = json.loads((model / "config.json").read_text())
    # As saved, and with every attribute of the class, defaults too, as older versions wrote it.
    for written in (saved, {**config.to_dict(), "architectures": saved["architectures"]}):
        (model / "config.json").write_text(json.dumps(written))
        said = commands.said("qat-eval", model, "--text", data / "text" / "tinystories_valid.jsonl",
                             "--context", 16, "--max-windows", 2, cwd=ROOT)  # fmt: skip
        assert "perplexity" in said
        assert "not known" not in said
    (model / "config.json").write_text(json.dumps({**saved, "zeta": 0.5}))
    refused = commands.complete("qat-eval", model, "--text", data / "text" / "tinystories_valid.jsonl",
                                expect=2, cwd=ROOT)  # fmt: skip
    assert "zeta" in refused.stderr
