"""How large a teacher is on disk: the files that loading it reads, and no others in its folder."""

from pathlib import Path

from pipeline.config import TeacherSection


def teacher_bytes(section: TeacherSection, *, base: Path) -> int | None:
    """Bytes of the teacher's own files; None where it has none here: a server, a callable without a path.

    A folder counts whole unless its kind says which files it reads. A graph's weights may lie in a second file beside it.
    """
    if section.members:
        sizes = [teacher_bytes(TeacherSection(use=one.use, path=one.path, options=one.options), base=base) for one in section.members]
        return None if any(size is None for size in sizes) else sum(size for size in sizes if size is not None)
    if section.path is None:
        return None
    path = base / section.path
    if section.use == "sklearn":
        from pipeline.teachers.sklearn import DESCRIPTION_FILE, MODEL_FILE  # seconds to import: only for a teacher that is made of it

        files = [path / MODEL_FILE, path / DESCRIPTION_FILE]
    elif path.is_dir():
        files = list(path.rglob("*"))
    else:
        files = [path, path.with_name(f"{path.name}.data")]
    found = [file.stat().st_size for file in files if file.is_file()]
    return sum(found) if found else None
