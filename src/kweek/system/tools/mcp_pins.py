"""What MCP servers offer, pinned: a tool is used as it was when a person accepted it, or not at all.

A server may change the description of a tool at any time, and a description is read by the model like any instruction.
So the hash of everything that a server says of a tool is kept, and a tool that is new or has changed is not offered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kweek.errors import DataError
from kweek.store.files import read_json, write_json

State = Literal["accepted", "new", "changed"]


@dataclass(frozen=True)
class Offer:
    """A tool as a server describes it.

    Attributes:
        name, description, parameters: as the server says.
        sha256: of all that it says of the tool.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    sha256: str

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Offer:
        """The tool of a listing, in the names of the protocol ("inputSchema")."""
        whole = json.dumps(said, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        digest = hashlib.sha256(whole.encode()).hexdigest()
        return cls(said["name"], said.get("description") or "", said["inputSchema"], digest)


class Pins:
    """The hashes that were accepted, in one JSON file for all servers.

    Args:
        path: of the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)

    def state(self, server: str, offer: Offer) -> State:
        """Whether a tool is as it was accepted.

        Raises:
            StoreError, DataError: the file is broken.
        """
        pinned = self._read().get(server, {}).get(offer.name)
        if pinned is None:
            return "new"
        return "accepted" if pinned == offer.sha256 else "changed"

    def accept(self, server: str, offers: Sequence[Offer]) -> None:
        """Pin tools as they are now. A person should have read their descriptions.

        Raises:
            StoreError, DataError: the file is broken or cannot be written.
        """
        pins = self._read()
        pins.setdefault(server, {}).update({offer.name: offer.sha256 for offer in offers})
        write_json(self._path, pins)

    def _read(self) -> dict[str, dict[str, str]]:
        if not self._path.exists():
            return {}
        found = read_json(self._path)
        if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
            raise DataError("not a file of pins", where=str(self._path), fix="remove it, and accept anew")
        return found
