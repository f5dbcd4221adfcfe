"""Generates `heliograph.api.v1` from `proto/`, with the pinned compiler.

`python tools/generate_api.py` writes into `sdk/`; `--check` compares and exits 1 on any difference.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.resources
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("heliograph/api/v1")


def generate(target: Path) -> None:
    """Writes the messages, stubs and their types below `target`."""
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto" / PACKAGE).glob("*.proto"))
    bin_folder = Path(sys.executable).parent
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}",
            f"--python_out={target}", f"--grpc_python_out={target}",
            f"--plugin=protoc-gen-mypy={bin_folder / 'protoc-gen-mypy'}", f"--mypy_out={target}",
            f"--plugin=protoc-gen-mypy_grpc={bin_folder / 'protoc-gen-mypy_grpc'}", f"--mypy_grpc_out={target}",
            *protos,
        ],
        check=True,
    )  # fmt: skip


def main() -> int:
    """Generates, or checks what is checked in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    if not parser.parse_args().check:
        generate(ROOT / "sdk")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh, kept = Path(folder) / PACKAGE, ROOT / "sdk" / PACKAGE
        names = {path.name for path in fresh.iterdir()} | {path.name for path in kept.iterdir() if "_pb2" in path.name}
        differing = sorted(
            name
            for name in names
            if not ((fresh / name).exists() and (kept / name).exists())
            or not filecmp.cmp(fresh / name, kept / name, shallow=False)
        )
    for name in differing:
        print(f"{PACKAGE / name} is not what proto/ generates: run `make proto`")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
