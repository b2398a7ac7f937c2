"""What a person asked for: which run file, which folder, which mode."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.config import RunFile, load
from pipeline.errors import ConfigError
from pipeline.files import read_bounded
from pipeline.recipes import RECIPES, recipe_text
from workers.driver.folder import RunFolder, read_json

RUN_FILE = "run.toml"
MAX_RUN_FILE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A checked request. `base` is where the run file's relative paths begin: its own folder, or the run's for a recipe."""

    name: str
    """Run file or recipe, as typed."""
    run: RunFile
    base: Path
    folder: RunFolder
    named_dir: bool = False
    """The folder was named with --dir."""
    overrides: tuple[str, ...] = ()
    dry_run: bool = False
    continuous: bool = False
    keep: bool = False
    take_over: bool = False

    @property
    def command(self) -> str:
        """What a person types to go on."""
        words = ["kdpipe", "run", self.name]
        words += [word for override in self.overrides for word in ("--set", override)]
        words += ["--dir", str(self.folder.root)] if self.named_dir else []
        words += ["--continuous"] if self.continuous else []
        words += ["--keep"] if self.keep else []
        return shlex.join(words)

    @classmethod
    def of(cls, name: str, directory: Path | None, overrides: tuple[str, ...] = (), **modes: bool) -> Self:
        """Read and check the run file or recipe called `name`, or the run.toml of the folder called so.

        `modes` are dry_run, continuous, keep, take_over. Raises ConfigError.
        """
        path = Path(name)
        if path.is_dir() and name not in RECIPES and (path / RUN_FILE).is_file():
            path /= RUN_FILE
        is_recipe = name in RECIPES and not path.is_file()
        run = load(recipe_text(name) if is_recipe else _read(path), where=name if is_recipe else str(path), overrides=overrides)
        if is_recipe:
            root = base = (directory or Path("runs") / name).resolve()
        else:
            base = path.parent.resolve()
            root = directory.resolve() if directory else base / "runs" / run.name
        named = directory is not None
        return cls(name=name, run=run, base=base, folder=RunFolder(root), named_dir=named, overrides=overrides, **modes)

    @classmethod
    def again(cls, folder: RunFolder) -> Self:
        """What was asked for when the folder's run was last started, with the run file as it was then."""
        origin = read_json(folder.origin_file)
        return cls(
            name=origin["name"],
            run=RunFile.model_validate_json(json.dumps(origin["run"])),
            base=Path(origin["base"]),
            folder=folder,
            named_dir=True,
        )


def _read(path: Path) -> str:
    try:
        return read_bounded(path, MAX_RUN_FILE_BYTES).decode()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        known = ", ".join(sorted(RECIPES))
        raise ConfigError(
            str(path),
            "no such run file or recipe",
            f"a TOML file, or one of: {known}",
            f"`kdpipe init spam {path.stem or 'DIR'}` writes one",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "not UTF-8 text", "a TOML file", "`kdpipe init spam DIR` writes one to start from") from error
