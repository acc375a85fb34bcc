"""SAGAN (Zhang et al., arXiv:1805.08318) with the sparse attention layers of ylg: networks, training, metrics.

Read next: config.py (every choice there is), generator.py, discriminator.py, training.py.
"""

import os
import sys
from pathlib import Path
from types import TracebackType

from sagan_base.extras import require_extra


def _interrupted(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)


_program = Path(sys.argv[0] if sys.argv else "")
_is_ours = _program.name.startswith("ylg-") or _program.resolve().is_relative_to(Path(__file__).resolve().parents[1])
if sys.argv[:1] == ["-m"] or _is_ours:  # for Ctrl-C while PyTorch is imported, before cli.command
    sys.excepthook = _interrupted

require_extra("gan", "sagan_base")  # before the imports below, which need its packages

from sagan_base.checkpoint import load_checkpoint  # noqa: E402
from sagan_base.discriminator import Discriminator  # noqa: E402
from sagan_base.generator import Generator  # noqa: E402
from sagan_base.published_weights import load_published_weights  # noqa: E402

__all__ = ["Discriminator", "Generator", "load_checkpoint", "load_published_weights"]
