"""The files that the bodies of a job have kept with it, as a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from park.client.link import Link
from park.wire import codec, messages


class JobFiles(Mapping[str, bytes]):
    """The files of a job, by name, as they were when this was made; each is read when it is asked for."""

    def __init__(self, link: Link, job: int) -> None:
        self._link = link
        self._job = job
        self._sizes: dict[str, int] = codec.unpack(self._read("")[1])

    def __repr__(self) -> str:
        return f"<files of job {self._job}: {', '.join(self._sizes)}>"

    def __getitem__(self, name: str) -> bytes:
        there, data = self._read(name) if name else (False, b"")
        if not there:
            raise KeyError(name)
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def sizes(self) -> dict[str, int]:
        """The bytes of each file, by name."""
        return dict(self._sizes)

    def _read(self, name: str) -> tuple[bool, bytes]:
        """Whether the file is there, and its bytes; of "" the packed names and sizes of all files."""
        answer, data = self._link.ask(lambda n: messages.Files(n, self._job, name))
        assert isinstance(answer, messages.Filed)
        return answer.there, bytes(data)
