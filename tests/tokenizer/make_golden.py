#!/usr/bin/env python3
"""Writes tests/tokenizer/golden: small tokenizers of every supported style, and what Hugging Face
`tokenizers` makes of adversarial texts with them.

The tokenizers are trained on text made up in this file, so the ids mean nothing to any real model;
the regular expressions and the order of the steps are those of the models the folders are named
after. Needs `pip install tokenizers`.

    python3 tests/tokenizer/make_golden.py
"""
import json
import random
import shutil
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

OUT = Path(__file__).resolve().parent / "golden"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
WORDS = ("the a of and to in is it's don't we'll they've I'm river stone model train token weight "
         "quick brown fox jumps over lazy dog number system layer value return import class def self "
         "print while for if else None True 12 345 6789 3.14 hello world morning garden window "
         "je suis déjà café naïve über straße мир привет 今日 は いい 天気 我 能 吞下 玻璃 而 不伤 身体 "
         "العربية لغة नमस्ते 안녕 세계").split()


def corpus():
    random.seed(7)
    for _ in range(1500):
        line = " ".join(random.choice(WORDS) for _ in range(random.randint(3, 15)))
        yield line + random.choice([".", "!\n", ",\n\n", "  ", "\r\n", ";\n\t"])


TEXTS = [
    "", "a", " ", "  ", "\n", "\r\n", "\t\t\t", "a  b   c    d", "   lead", "trail   ",
    "trail \n", "\n\n\n  x", "x\r\n\r\ny", "\u00a0\u00a0x\u00a0", "\u3000全角\u3000 スペース",
    "Hello, world! It's 2024.", "can't CAN'T we'Re they'LL I'vE 'S 's 'ſ'ſx it'ſ", "don''t ''''s",
    "1234567890", "a1b22c333", "１２３４５ ٣٤٥٦", "½ ⅓ ² ³ ① Ⅷ 〇 五", "3.14e-10 0x1F",
    "def f(self, x):\n\treturn x**2  # hi\n\n\n", "if a != b:\n    print('no')\n",
    "😀 👨\u200d👩\u200d👧 🏳️\u200d🌈 🇩🇪 👍🏽", "e\u0301 é \u0301 a\u0301\u0327\u0323",
    "\u1100\u1161\u11a8 각 ﬁ Å \u212b \u0958 \u0344", "\u0000\u0001\u0007\x7f\x80\x9f",
    "\u0085\u2028\u2029\u200b\ufeff\ufffd", "नमस्ते क्या हाल है", "السلام عليكم ١٢٣",
    "我能吞下玻璃而不伤身体。", "今日はいい天気ですね。", "안녕하세요 세계", "Привет, мир!", "café naïve",
    "x<|im_start|>user\n<|im_end|>", "<|im_start|>x<|im_start|>y <|endoftext|><|endoftext|>",
    "<s>hi</s> <unk> <s> x", "<0x41><0x0A>", "▁x ▁▁ y▁z", "<tool> a lead b  lead tail   x",
    "wordy awordy wordyb wordy. ,wordy\n éwordy", "two   two  two", "tail tail ",
    "x" * 300, "ab" * 200, " " * 200, "\n" * 50, "1" * 100, "!?" * 100, "a\u0301" * 60, "我" * 120,
    "'" * 40, "🙂" * 40, "\U00010D4E\U0001E5D0\u1c89\ua7cb \U00016d40 \U0001cc00", "\u180e\u180ex",
    "𝒜𝓫𝟘𝟙", "ﷺ", "İıſK", "\ud7ff\ue000\uf8ff\U0010ffff", "the  quick\tbrown\u2009fox",
    "\u0898a\u0898\u0301 \U00011938 \U00011935\U00011930",
]


def byte_level(use_regex=True, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def sequence(*steps):
    return pre_tokenizers.Sequence(list(steps))


BYTE_LEVEL = {
    "gpt2": dict(steps=byte_level()),
    "gpt2_prefix_space": dict(steps=byte_level(prefix=True)),
    "llama3": dict(steps=sequence(split(LLAMA3), byte_level(False)), ignore_merges=True, bos=True),
    "qwen2": dict(steps=sequence(split(QWEN2), byte_level(False)), normalizer=normalizers.NFC()),
    "smollm": dict(steps=sequence(pre_tokenizers.Digits(individual_digits=True), byte_level())),
    "o200k": dict(steps=sequence(split(O200K), byte_level(False))),
}


def make_byte_level(name, steps, normalizer=None, ignore_merges=False, bos=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = steps
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|endoftext|>"]))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    if name == "gpt2":  # the odd flags, once
        tokenizer.add_tokens([
            AddedToken("<tool>", normalized=False), AddedToken(" lead", lstrip=True),
            AddedToken("tail", rstrip=True, normalized=False),
            AddedToken("wordy", single_word=True, normalized=False)])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", pair="<|endoftext|> $A <|endoftext|> $B",
            special_tokens=[("<|endoftext|>", 0)])
    return tokenizer.to_str()


SPACE_MARK = "▁"
TO_MARK = normalizers.Replace(" ", SPACE_MARK)
FALLBACK = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
SCORED = {
    "llama2": dict(normalizer=normalizers.Sequence([normalizers.Prepend(SPACE_MARK), TO_MARK]),
                   decoder=decoders.Sequence(FALLBACK + [decoders.Strip(" ", 1, 0)])),
    "mistral": dict(steps=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
                    decoder=decoders.Sequence(FALLBACK + [decoders.Strip(" ", 1, 0)])),
    "gemma": dict(normalizer=TO_MARK, steps=pre_tokenizers.Split(" ", "merged_with_previous"),
                  decoder=decoders.Sequence(FALLBACK)),
}


def make_scored(name, decoder, normalizer=None, steps=None):
    special = ["<unk>", "<s>", "</s>"]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=800, limit_alphabet=80, show_progress=False,
        special_tokens=special + ["<0x%02X>" % byte for byte in range(256)]))
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if steps is not None:
        tokenizer.pre_tokenizer = steps
    tokenizer.decoder = decoder
    document, learned = json.loads(tokenizer.to_str()), json.loads(trained.to_str())["model"]
    document["model"]["vocab"] = learned["vocab"]
    document["model"]["merges"] = learned["merges"]
    document["added_tokens"] = [
        dict(id=i, content=text, single_word=False, lstrip=False, rstrip=False, normalized=False,
             special=True) for i, text in enumerate(special)]
    document["post_processor"] = json.loads(processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]).__getstate__())
    return json.dumps(document, ensure_ascii=False)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    made = {name: make_byte_level(name, **spec) for name, spec in BYTE_LEVEL.items()}
    made.update({name: make_scored(name, **spec) for name, spec in SCORED.items()})
    for name, text in made.items():
        folder = OUT / name
        folder.mkdir(parents=True)
        document = json.loads(text)
        (folder / "tokenizer.json").write_text(
            json.dumps(document, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        cases = []
        for sample in TEXTS:
            ids = tokenizer.encode(sample, add_special_tokens=False).ids
            with_special = tokenizer.encode(sample).ids
            cases.append(dict(text=sample, ids=ids, added=len(with_special) - len(ids),
                              decoded=tokenizer.decode(ids, skip_special_tokens=False),
                              shown=tokenizer.decode(ids, skip_special_tokens=True)))
        lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
        (folder / "expected.json").write_text('{"cases": [\n' + lines + "\n]}\n")


main()
