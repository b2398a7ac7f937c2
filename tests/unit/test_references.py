"""`module:callable` from the user's folder: what is found, what stays ours, and what the fingerprint sees."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
import workers
from pipeline.config import SourceSection, TeacherSection
from pipeline.references import ReferenceBrokenError, ReferenceNotFoundError, import_reference, source_fingerprint
from pipeline.sources import open_source
from pipeline.teachers import load_teacher


@pytest.fixture(autouse=True)
def import_state(tmp_path: Path) -> Iterator[None]:
    """What a test imports from its folder is forgotten after it; what others are imported meanwhile stay, as some load only once."""
    path = list(sys.path)
    places = {package: list(package.__path__) for package in (pipeline, workers)}
    yield
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    for package, before in places.items():
        package.__path__[:] = before


def test_a_function_a_class_and_a_method_are_found(tmp_path: Path) -> None:
    (tmp_path / "own_mod.py").write_text("def make(): return 7\nclass Maker:\n    @staticmethod\n    def make(): return 8\n")
    assert import_reference("own_mod:make", base=tmp_path)() == 7
    assert import_reference("own_mod:Maker.make", base=tmp_path)() == 8


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nope:make", r"no module 'nope' in .* \(modules there: own_mod\)"),
        ("nope.deeper:make", "no module 'nope.deeper'"),
        ("own_mod:nope", "has no 'nope'; expected one of what it has: make, number"),
        ("own_mod:number", "'number' is a int; expected a function or class"),
        ("own_mod", "module:callable"),
    ],
)
def test_a_reference_that_names_nothing_says_what_is_there(reference: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "own_mod.py").write_text("number = 5\ndef make(): pass\n")
    with pytest.raises(ReferenceNotFoundError, match=says) as caught:
        import_reference(reference, base=tmp_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import a_package_nobody_has", r"No module named 'a_package_nobody_has' \(own_mod.py line 1\); .*; install a_package_nobody_has"),
        ("def make(:", r"SyntaxError: .* \(own_mod.py line 1\)"),
        ("\nraise RuntimeError('two\\nlines')", r"RuntimeError: two lines \(own_mod.py line 2\); expected a module that imports"),
    ],
    ids=["missing package", "syntax", "raises"],
)
def test_a_module_of_the_users_that_does_not_import_is_told_in_one_line_with_its_place(code: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "own_mod.py").write_text(code)
    with pytest.raises(ReferenceBrokenError, match=told) as refused:
        import_reference("own_mod:make", base=tmp_path)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is not None


def test_a_bare_name_that_is_not_shipped_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFoundError, match=r"one of: ensemble, onnx, .*, transformers, or module:callable from your own"):
        load_teacher(TeacherSection(use="torch"), classes=("ham", "spam"), base=tmp_path)
    with pytest.raises(ReferenceNotFoundError, match="expected one of: files, images, or module:callable"):
        open_source(SourceSection(use="file", path="x.csv"), base=tmp_path)


def test_a_module_hidden_by_one_of_the_same_name_is_refused_instead_of_swapped(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def make(): pass\n")
    with pytest.raises(ReferenceNotFoundError, match=r"json.py is hidden by another module of that name .*rename json.py"):
        import_reference("json:make", base=tmp_path)


USERS_FOLDER = {
    "mine.py": "from workers.own_thing import VALUE\nfrom pipeline.own_part import PART\nimport helper\n"
    "def make(): return (VALUE, PART, helper.HELP)\n",
    "helper.py": "HELP = 'help'\n",
    "workers/__init__.py": "raise RuntimeError('the user package ran instead of ours')\n",
    "workers/own_thing.py": "VALUE = 'theirs'\n",
    "pipeline/__init__.py": "raise RuntimeError('the user package ran instead of ours')\n",
    "pipeline/own_part.py": "PART = 'part'\n",
    "pipeline/config.py": "raise RuntimeError('the user module ran instead of ours')\n",
}


def write_folder(base: Path) -> Path:
    for name, text in USERS_FOLDER.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text)
    return base


def test_a_folder_with_its_own_workers_and_pipeline_neither_shadows_ours_nor_breaks(tmp_path: Path) -> None:
    """In a fresh process, as in a Ray actor: nothing of ours is imported before."""
    program = (
        "import sys; from pathlib import Path; from pipeline.references import import_reference\n"
        "print(import_reference('mine:make', base=Path(sys.argv[1]))())\n"
        "import pipeline.config, workers; print(pipeline.config.RunFile.__name__, pipeline.config.__file__)\n"
    )
    root = Path(pipeline.__path__[0]).parent
    done = subprocess.run(
        [sys.executable, "-c", program, str(write_folder(tmp_path))], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert "('theirs', 'part', 'help')" in done.stdout
    assert f"RunFile {root}/pipeline/config.py" in done.stdout


def test_a_name_that_only_the_users_package_has_is_explained_when_ours_hides_it(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "wants.py").write_text("from pipeline.config import SETTINGS\ndef make(): pass\n")
    with pytest.raises(ReferenceNotFoundError, match=r"pipeline.config is kdpipe's own, and .*/pipeline comes after it.*rename"):
        import_reference("wants:make", base=tmp_path)


def test_the_folder_goes_to_the_end_of_the_path_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "own_mod.py").write_text("def make(): pass\n")
    for _ in range(3):
        import_reference("own_mod:make", base=tmp_path)
    assert sys.path[-1] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


def test_a_reference_into_kdpipe_itself_works_from_any_folder(tmp_path: Path) -> None:
    assert import_reference("pipeline.recipes.digits:prepare", base=tmp_path).__name__ == "prepare"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mine.py", True),
        ("helper.py", True),
        ("workers/own_thing.py", True),
        ("package/__init__.py", True),
        ("package/inner.py", True),
        ("unrelated.py", False),
        ("data.txt", False),
    ],
)
def test_the_fingerprint_follows_what_the_module_imports_and_nothing_else(name: str, changes: bool, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import helper, json\nfrom workers.own_thing import VALUE\ndef make():\n    from package import inner\n"
    )
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "inner.py").write_text("from . import other\n")
    before = source_fingerprint("mine:make", base=tmp_path)
    assert source_fingerprint("mine:make", base=tmp_path) == before
    with (tmp_path / name).open("a") as file:
        file.write("# changed\n")
    assert (source_fingerprint("mine:make", base=tmp_path) != before) is changes
