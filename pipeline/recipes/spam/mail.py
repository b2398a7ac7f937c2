"""A raw e-mail as the text that teacher and students see: subject, sender's domain, body.

Nothing else may pass: Received, Date, List-* and X-* headers name the collection a mail was filed in, and a model that reads
them learns the filing. For the same reason names that the collection's keepers put in place of real ones are masked. Any
text goes in; a mail that does not parse comes out as what could be read of it, never as an exception.

Mailing-list footers go too: 135 of the spam mails, and no other, were filed through a list for reporting spam and say so.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from email import message_from_bytes, policy
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import parseaddr
from html.parser import HTMLParser

MAX_CHARS = 4_000
"""Longest text of a mail; more is cut. Students see less than that."""
MAX_MAIL_CHARS = 2_000_000
MAX_PARTS = 64

_SILENT_TAGS = frozenset({"script", "style", "title", "head"})
_BREAKING_TAGS = frozenset({"br", "p", "div", "tr", "li", "table", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "blockquote"})
_KEEPERS_HOSTS = re.compile(r"[\w.-]*\b(?:taint\.org|jmason\.org|netnoteinc\.com)\b", re.IGNORECASE)
_KEEPERS_NAMES = re.compile(r"\b[yz]{4}(?:ason)?\b", re.IGNORECASE)
_LIST_FOOTER = re.compile(r"\n_{20,}\s*\n[^\n]{1,80}mailing list\s*\n.{0,600}\Z", re.IGNORECASE | re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffd\ufeff\u200b-\u200f]")
_HTML_START = re.compile(r"\s*<(?:!doctype|html)\b", re.IGNORECASE)
_BLANK = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\s*\n\s*\n\s*")


def mail_text(raw: str) -> str:
    """Subject, domain of the sender and body, a line each for the first two; at most MAX_CHARS characters."""
    message = message_from_bytes(raw[:MAX_MAIL_CHARS].encode("utf-8", "replace"), policy=policy.compat32)
    body = "\n".join(_bodies(message))
    return _tidy(f"{_header(message, 'Subject')}\n{_sender_domain(message)}\n{body}")


def _tidy(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _BLANK.sub(" ", _CONTROL.sub(" ", text.replace("\r\n", "\n")))
    text = _LIST_FOOTER.sub("", text.rstrip())
    text = _KEEPERS_NAMES.sub("someone", _KEEPERS_HOSTS.sub("example.org", text)).replace("zzzzteana", "forteana")
    return _BLANK_LINES.sub("\n\n", text).strip()[:MAX_CHARS]


def _header(message: Message, name: str) -> str:
    found = str(message.get(name, ""))[:1000]
    with suppress(HeaderParseError, LookupError, ValueError):  # an encoded word that does not decode stays as it was written
        found = str(make_header(decode_header(found)))
    return " ".join(found.split())


def _sender_domain(message: Message) -> str:
    _, address = parseaddr(_header(message, "From"))
    return address.rpartition("@")[2].lower()[:100] if "@" in address else ""


def _bodies(message: Message) -> Iterator[str]:
    """Text parts in order. Of alternatives to one another the plain one counts, as in a mail client that shows text."""
    parts = [part for _, part in zip(range(MAX_PARTS), message.walk(), strict=False) if not part.is_multipart()]
    plain = [part for part in parts if part.get_content_type() == "text/plain"]
    texts = [text for text in map(_decode, plain) if text.strip()]
    if texts:
        yield from (html_text(text) if _HTML_START.match(text) else text for text in texts)
        return
    for part in parts:
        if part.get_content_type() == "text/html":
            yield html_text(_decode(part))
        elif part.get_content_maintype() == "text":
            yield _decode(part)


def _decode(part: Message) -> str:
    """The part's text. Unencoded bytes are UTF-8 whatever the header says: that is how they came to us."""
    try:
        data = part.get_payload(decode=True)
    except (ValueError, LookupError):
        data = None
    if not isinstance(data, bytes):
        return str(part.get_payload())
    encoded = str(part.get("Content-Transfer-Encoding", "")).strip().lower() in ("base64", "quoted-printable")
    charset = (part.get_content_charset() or "utf-8") if encoded else "utf-8"
    for candidate in (charset, "utf-8", "latin-1"):
        try:
            return data.decode(candidate)
        except (UnicodeError, LookupError, ValueError):
            continue
    return data.decode("latin-1")


def html_text(html: str) -> str:
    """What a reader of the page would see, more or less: no tags, scripts, styles or comments."""
    parser = _Visible()
    try:
        parser.feed(html)
        parser.close()
    except (AssertionError, ValueError):
        return re.sub(r"<[^>]{0,2000}>", " ", html)
    return "".join(parser.pieces)


class _Visible(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._silent: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT_TAGS:
            self._silent = tag
        elif tag == "body":
            self._silent = None  # a head that nobody closed
        if tag in _BREAKING_TAGS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._silent or tag == "head":
            self._silent = None
        if tag in _BREAKING_TAGS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if self._silent is None:
            self.pieces.append(data)
