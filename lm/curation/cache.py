"""Stages on disk: each in a folder that is named by a hash of all that shaped it."""

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from lm.run import lock
from lm.system import atomic_files, faults

_FORMAT = 9  # Raise it whenever the same settings would give other files.
_DONE = "done.json"


class StageCache:
    """Makes stages that are not there, one behind the other; deleting a folder is always safe."""

    def __init__(self, folder: pathlib.Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def stage(
        self,
        name: str,
        before: Sequence[pathlib.Path],
        settings: Any,
        make: Callable[[pathlib.Path], None],
    ) -> pathlib.Path:
        """Gives the folder of a stage, made if it is not whole.

        Args:
          name: of the stage.
          before: the folders that it is made of.
          settings: all else that shapes it: a block, versions of libraries.
          make: fills the folder; one that was killed is called again, with what it had written.
        """
        identity = json.dumps(
            [_FORMAT, name, [folder.name for folder in before], settings], sort_keys=True
        )
        short = hashlib.sha256(identity.encode()).hexdigest()[:16]
        folder = self.folder / f"{name}-{short}"
        if not (folder / _DONE).exists():
            with lock.held(self.folder, file_name=f"{folder.name}.lock", wait=True):
                if not (folder / _DONE).exists():
                    with faults.naming(folder):
                        make(folder)
                        # What a data set was sorted from is for whoever goes on after a kill.
                        shutil.rmtree(folder / "runs", ignore_errors=True)
                        atomic_files.write(folder / _DONE, identity)
        return folder
