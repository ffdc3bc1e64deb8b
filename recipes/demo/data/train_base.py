"""Train the demo's tokenizer and base model from base.jsonl.xz, on one CPU thread: python train_base.py

The base has seen a little of all five domains, English most, as a pretrained model has; continual pre-training on one
domain then improves on what is there. A fixed seed and one thread give the same bytes on the same machine and
libraries.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: the order of float sums depends on it
os.environ["OMP_WAIT_POLICY"] = "passive"

import argparse
import hashlib
import json
import lzma
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 7
DATA_DIR = Path(__file__).parent
DOMAINS = ("ja", "zh", "math", "code", "en")
EOS = "<|endoftext|>"
VOCAB_SIZE = 4096
MAX_LENGTH = 512
SEQUENCE_LENGTH = 256
BATCH_SIZE = 8
WARMUP_STEPS = 100
PEAK_LR = 3e-3


def read_texts(name: str) -> list[str]:
    with lzma.open(DATA_DIR / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose words end where the script changes.

    Japanese and Chinese have no spaces: without the first split a whole clause is one word, and merges are learnt from
    rare clauses, slowly, instead of from words. Digits stay single, which is what arithmetic needs.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}{1,6}|\p{Hiragana}{1,8}|[\p{Katakana}ー]{1,12}"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=288,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config)


def batches(documents: list[list[int]], n_steps: int) -> Iterator[torch.Tensor]:
    """Documents in a new order each epoch, joined and cut into int64 tensors [BATCH_SIZE, SEQUENCE_LENGTH]."""
    rng = random.Random(SEED)
    order = list(range(len(documents)))
    stream: list[int] = []
    size = BATCH_SIZE * SEQUENCE_LENGTH
    for _ in range(n_steps):
        while len(stream) < size:
            rng.shuffle(order)
            for index in order:
                stream += documents[index]
        yield torch.tensor(stream[:size]).view(BATCH_SIZE, SEQUENCE_LENGTH)
        del stream[:size]


def learning_rate(step: int, n_steps: int) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / (n_steps - WARMUP_STEPS)
    return PEAK_LR * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train_model(model: LlamaForCausalLM, documents: list[list[int]], n_steps: int) -> None:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.95))
    started = time.perf_counter()
    for step, batch in enumerate(batches(documents, n_steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            elapsed_s = time.perf_counter() - started
            rate = (step + 1) * batch.numel() / elapsed_s
            print(
                f"step {step + 1}/{n_steps}  loss {loss.item():.3f}  {rate:.0f} tokens/s  {elapsed_s:.0f} s", flush=True
            )


@torch.inference_mode()
def bits_per_byte(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """Bits for all documents over their UTF-8 bytes; each document is read alone, after one EOS."""
    bits = 0.0
    for text in texts:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
        logits = model(input_ids=ids).logits[0, :-1]
        bits += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item() / math.log(2)
    return bits / sum(len(text.encode()) for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DATA_DIR / "base")
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    texts = read_texts("base.jsonl.xz")
    tokenizer = train_tokenizer(texts)
    model = new_model(tokenizer)
    documents = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]
    n_tokens = sum(map(len, documents))
    print(f"{len(texts)} documents, {n_tokens} tokens, {model.num_parameters()} parameters", flush=True)
    train_model(model, documents, args.steps)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=64
    )
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    for path in sorted(args.out.iterdir()):
        path.chmod(0o644)
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size} bytes")
    model.eval()
    for domain in DOMAINS:
        print(
            f"{domain}: {bits_per_byte(model, tokenizer, read_texts(f'{domain}.dev.jsonl.xz')):.4f} bits per byte (dev)"
        )


if __name__ == "__main__":
    main()
