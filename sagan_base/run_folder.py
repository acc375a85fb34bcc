"""A run's folder: whose it is, what it says about its origin, and which files it holds.

``config.json`` is the record of the experiment: the configuration, the data and one entry per session. A folder is
continued only by the same experiment.
"""

import json
from pathlib import Path
from typing import Any

from sagan_base.config import RunConfig
from sagan_base.data import ImageData
from sagan_base.files import write_json

CONFIG_FILE = "config.json"


def folder_problem(path: Path, config: RunConfig, data: ImageData) -> str | None:
    """None where ``path`` (a run's ``config.json``) is absent or of the same experiment, else what differs."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        before = RunConfig.from_dict(record["config"]).identity()
        fingerprint = record["data"]["fingerprint"]
    except (KeyError, TypeError, ValueError) as error:
        return f"{path} is not the record of a run ({error}); use another --out, or delete that folder"
    if fingerprint == data.fingerprint:
        before["data"] = config.data  # another path to the same pictures is no difference
    differing = _differences(before, config.identity())
    if fingerprint != data.fingerprint:
        differing.append(f"data fingerprint ({fingerprint[:12]} there, {data.fingerprint[:12]} here)")
    if not differing:
        return None
    return (
        f"{path.parent} holds another run: it differs in {', '.join(differing)}; use another --out, delete that folder "
        "to start anew, or give its options to go on with it"
    )


def write_record(path: Path, config: RunConfig, data: ImageData, session: dict[str, Any]) -> None:
    """Write ``config.json``; the entries of earlier sessions stay."""
    sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"] if path.is_file() else []
    record = {
        "seed": config.training.seed,
        "config": config.to_dict(),
        "config_hash": config.config_hash(),
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "source": data.source,
            "images": len(data),
            "class_names": list(data.class_names),
        },
        "sessions": [*sessions, session],
    }
    write_json(path, record)


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(there.keys() | here.keys())
        prefix = f"{name}." if name else ""
        return [text for key in keys for text in _differences(there.get(key), here.get(key), prefix + key)]
    return [] if there == here else [f"{name} ({there!r} there, {here!r} here)"]
