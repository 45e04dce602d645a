"""Where an evaluation gets pictures and features: processes, cache and scratch space."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from apps.evaluate.networks.extractors import Extractor, TextExtractor, load_extractor
from apps.evaluate.networks.rewards import Reward, load_reward
from apps.evaluate.pictures.features import Features, Made, embed
from apps.evaluate.pictures.folder import Folder
from apps.evaluate.pictures.images import BadPicture, digest, find_pictures
from apps.evaluate.pictures.processes import Processes
from apps.evaluate.pictures.provenance import provenance, versions
from apps.evaluate.pictures.store import FeatureStore
from apps.evaluate.result import Result
from apps.evaluate.settings import EvaluateSettings

Item = TypeVar("Item")
Output = TypeVar("Output")

_log = logging.getLogger("diffusteer")
_NAMED = 3


class Workplace:
    """Processes, cache and scratch space of one evaluation; a context manager.

    Attributes:
        bad: pictures that were left out, with the reason.
    """

    def __init__(self, settings: EvaluateSettings) -> None:
        self.settings = settings
        self.processes = Processes(settings.device)
        self.bad: dict[str, str] = {}
        self._open = ExitStack()

    def __enter__(self) -> Workplace:
        scratch = tempfile.TemporaryDirectory(prefix="diffusteer-")
        self._scratch = Path(self._open.enter_context(scratch))
        self._threads = ThreadPoolExecutor()
        self._open.callback(self._threads.shutdown, cancel_futures=True)
        self._open.enter_context(warnings.catch_warnings())
        # Here, as filters belong to all threads. What Pillow cannot read it raises.
        warnings.filterwarnings("ignore", module="PIL")
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def folder(self, path: Path) -> Folder:
        """The pictures of a folder; see ``find_pictures``.

        Raises:
            ValueError: there are none, or some files cannot be opened.
        """

        def look() -> tuple[Folder, dict[str, str]]:
            names = find_pictures(path)
            hashes = self._threads.map(_hash, [path / name for name in names])
            found = dict(zip(names, hashes, strict=True))
            bad = {name: str(key) for name, key in found.items() if isinstance(key, BadPicture)}
            good = {name: key for name, key in found.items() if isinstance(key, str)}
            return Folder.of(path, good), bad

        folder, bad = self.processes.once(look)
        self._leave_out(path, bad, len(folder) + len(bad))
        return folder

    def extractor(self, name: str) -> Extractor:
        """A network by name, on the device of this process; see ``load_extractor``."""
        return load_extractor(name, str(self.processes.device))

    def text_extractor(self, name: str) -> TextExtractor:
        """The same for a network that takes texts too.

        Raises:
            ValueError: it takes none.
        """
        network = self.extractor(name)
        if not isinstance(network, TextExtractor):
            raise ValueError(
                f"extractor {name!r} takes no texts: use emblem-clip or clip:ID_OR_PATH"
            )
        return network

    def reward(self, name: str) -> Reward:
        """A preference model by name, on the device of this process; see ``load_reward``."""
        return load_reward(name, str(self.processes.device))

    def features(self, folder: Folder, extractor: Extractor) -> Features:
        """Features of the pictures of a folder; those that are kept are not made again.

        The folder of the result lacks the pictures that are left out.

        Raises:
            ValueError: pictures cannot be read, or the network gives numbers that are not finite.
        """
        store = self._store(extractor)
        names = folder.names_of
        open_keys = self.processes.once(lambda: [key for key in names if key not in store])

        def make(keys: Sequence[str]) -> tuple[list[Made], dict[str, str]]:
            paths = {key: folder.path / names[key][0] for key in keys}
            return embed(paths, extractor, self._threads)

        bad: dict[str, str] = {}
        label = f"{folder.path.name}, {extractor.name}"
        for parts in self.spread(open_keys, make, label):
            for made, unread in parts:
                bad |= {name: reason for key, reason in unread.items() for name in names[key]}
                if self.processes.first:
                    store.add(made)
        self._leave_out(folder.path, bad, len(folder))
        return Features(folder.without(bad), extractor, store, self._scratch)

    def spread(
        self, items: Sequence[Item], make: Callable[[Sequence[Item]], Output], what: str
    ) -> Iterator[list[Output]]:
        """What each process makes of a batch of the items; see ``Processes.rounds``.

        Each round goes to ``settings.on_progress`` after the caller has kept what it made.
        """
        if not items:
            return
        batch, done = self.settings.batch_size, 0
        self._tell(done, len(items), what)
        for made in self.processes.rounds(items, make, batch):
            yield made
            done = min(done + batch * self.processes.count, len(items))
            self._tell(done, len(items), what)

    def finish(self, measure: Callable[[], Result]) -> Result:
        """What the first process measures, with what was left out and where it comes from."""
        result = self.processes.once(measure)
        origin = provenance(self.processes.device, self.processes.count)
        return replace(result, left_out=self.bad, provenance=origin)

    def _tell(self, done: int, total: int, what: str) -> None:
        tell = self.settings.on_progress
        if tell is not None:
            self.processes.once(lambda: tell(done, total, what))

    def _store(self, extractor: Extractor) -> FeatureStore:
        cache = self.settings.cache or self._scratch
        maker = extractor.describe() | versions("torch", "transformers", "pillow")
        del maker["name"]  # the weights are known by their hash, whatever they are called
        store = FeatureStore(cache, maker)
        self._open.callback(store.close)
        return store

    def _leave_out(self, folder: Path, bad: Mapping[str, str], total: int) -> None:
        if not bad:
            return
        named = ", ".join(f"{name} ({reason})" for name, reason in list(bad.items())[:_NAMED])
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        found = f"{len(bad)} of {total} pictures in {str(folder)!r} cannot be read: {named}{more}"
        if len(bad) == total:
            raise ValueError(f"{found}; give a folder of pictures")
        if not self.settings.skip_bad:
            raise ValueError(f"{found}; repair or remove them, or leave them out with --skip-bad")
        _log.warning("%s; left out", found)
        self.bad |= {str(folder / name): reason for name, reason in bad.items()}


def _hash(path: Path) -> str | BadPicture:
    try:
        return digest(path)
    except BadPicture as reason:
        return reason
