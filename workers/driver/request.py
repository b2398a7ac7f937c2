"""What a person asked for: which run file, which folder, which mode."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.config import RunFile, load
from pipeline.errors import ConfigError
from pipeline.files import read_bounded
from pipeline.recipes import RECIPES, recipe_text
from workers.driver.folder import RunFolder

MAX_RUN_FILE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A checked request. `base` is where the run file's relative paths begin: its own folder, or the run's for a recipe."""

    run: RunFile
    text: str
    base: Path
    folder: RunFolder
    overrides: tuple[str, ...] = ()
    dry_run: bool = False
    continuous: bool = False
    keep: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        directory: Path | None,
        overrides: tuple[str, ...] = (),
        *,
        dry_run: bool = False,
        continuous: bool = False,
        keep: bool = False,
    ) -> Self:
        """Read and check the run file or recipe called `name`. Raises ConfigError."""
        path = Path(name)
        if name in RECIPES and not path.is_file():
            text, where = recipe_text(name), f"recipe {name}"
            root = (directory or Path("runs") / name).resolve()
            base = root
        else:
            text, where = _read(path), path.name
            base = path.parent.resolve()
        run = load(text, where=where, overrides=overrides)
        root = (directory or base / "runs" / run.name).resolve() if name not in RECIPES or path.is_file() else root
        return cls(
            run=run, text=text, base=base, folder=RunFolder(root), overrides=overrides, dry_run=dry_run, continuous=continuous, keep=keep
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
        raise ConfigError(str(path), "not UTF-8 text", "a TOML file") from error
