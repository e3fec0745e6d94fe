"""Releases of the proxy in a folder, with a link to the one in use, as a deployment leaves them."""

import sys
from pathlib import Path

from .proxy import SOURCE, Proxy


class Releases:
    """``folder/current`` leads to one of the releases beside it."""

    def __init__(self, proxy: Proxy) -> None:
        """The proxy, not started yet, is told to run from ``current``."""
        self.proxy = proxy
        self._folder = proxy.folder
        self._settings = dict(proxy.environment)
        self.current = self._folder / "current"
        path = self._settings.pop("PATH")
        del self._settings["PYTHONPATH"]
        proxy.environment.clear()
        proxy.environment.update(
            PATH=path,
            PYTHONPATH=str(self.current / "src"),
            LLAMAKIT_CONFIG=str(self.current / "proxy.env"),
        )
        proxy.python = str(self.current / "venv" / "bin" / Path(sys.executable).name)

    def add(self, name: str, *, source: Path = SOURCE, **settings: str) -> None:
        """A release with other source or settings than the first."""
        release = self._folder / "releases" / name
        release.mkdir(parents=True)
        (release / "venv").symlink_to(sys.prefix)
        (release / "src").symlink_to(source)
        values = {**self._settings, **settings}
        lines = [f"{key}={value}\n" for key, value in values.items()]
        (release / "proxy.env").write_text("".join(lines))

    def add_broken(self, name: str, main: str) -> None:
        """A release whose program is this text."""
        package = self._folder / f"source-{name}" / "llamakit_proxy"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(main)
        self.add(name, source=package.parent)

    def use(self, name: str) -> None:
        """Have ``current`` lead there, from one moment to the next."""
        part = self._folder / "current.part"
        part.symlink_to(self._folder / "releases" / name)
        part.replace(self.current)
