"""The first command on a CUDA machine: are the kernels right there, and how fast are they beside their peers?

    python benchmarks/gpu_check.py              # everything, a few minutes, most of them compilation
    python benchmarks/gpu_check.py --no-timing

First the tests that compare what the GPU computes with dense attention in float64 (tests/ylg), then the cases of
attention.py: launched from Python, and as CUDA graphs, where only the GPU's own time is left. The exit code is 1 if a
test failed.
"""

import os
import sys
from pathlib import Path

from sagan_base.cli import Parser, command, usage_errors

import attention
import pytest
import torch

TESTS = Path(__file__).resolve().parents[1] / "tests" / "ylg"
CASES = ("grid-32-batch-64", "grid-32-batch-64-bfloat16", "grid-64-batch-16-bfloat16", "grid-128", "discriminator-32")


@command()
def main() -> int:
    parser = Parser("python benchmarks/gpu_check.py", __doc__.split("\n\n")[0])
    parser.add_argument("--no-timing", action="store_true", help="only the tests")
    options = parser.parse_args()
    with usage_errors():
        if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
            raise ValueError("TRITON_INTERPRET is set, so no kernel would run on the GPU: unset it")
        if not torch.cuda.is_available():
            raise ValueError(
                "PyTorch sees no CUDA device; without one, run python benchmarks/kernel_report.py and "
                "pytest tests/ylg/test_triton.py"
            )
    failed = pytest.main([str(TESTS / "test_devices.py"), str(TESTS / "test_triton.py"), "-rs"])
    if not options.no_timing:
        attention.main(["--device", "cuda", "--cases", *CASES])
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main())
