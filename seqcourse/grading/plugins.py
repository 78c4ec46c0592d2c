"""The pre-collect check as plugins of nbgrader: for `nbgrader collect` and `nbgrader zip_collect`."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nbgrader.exchange.default.collect import ExchangeCollect
from nbgrader.plugins import ExtractorPlugin

from seqcourse.grading.inspection import Member, folder_members, zip_members


class InspectedCollect(ExchangeCollect):
    """Takes notebooks and the timestamp out of the exchange; follows no link, opens no device."""

    def do_copy(self, src: str, dest: str, log: Any = None) -> None:
        """Copy one submission."""
        _write(folder_members(Path(src)), Path(dest), self.log)


class InspectedExtractor(ExtractorPlugin):
    """Unpacks deliveries member by member: one bad zip file or name never stops the others."""

    def extract(self, archive_path: str, extracted_path: str) -> None:
        """Unpack all that lies in `archive_path`."""
        loose = []
        for member in folder_members(Path(archive_path)):
            if member.suffix == ".zip" and not member.problem:
                self._unpack(member, Path(extracted_path, member.name).with_suffix(""))
            else:
                loose.append(member)
        _write(loose, Path(extracted_path), self.log)

    def _unpack(self, member: Member, folder: Path) -> None:
        try:
            _write(zip_members(member.read()), folder, self.log)
        except (zipfile.BadZipFile, OSError) as error:
            self.log.error("%s cannot be unpacked: %s", member.name, error)


def _write(members: Iterable[Member], folder: Path, log: Any) -> None:
    """Write the usable notebooks and timestamps among `members`; say what was left out and why."""
    folder.mkdir(parents=True, exist_ok=True)
    for member in members:
        wanted = member.suffix == ".ipynb" or Path(member.name).name == "timestamp.txt"
        if member.problem or not wanted:
            log.warning("left out: %s", member.problem or f"{member.name} is no notebook")
            continue
        path = folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(member.read())
