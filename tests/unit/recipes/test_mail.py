"""From raw e-mail to text: what is read, what must not leak, and mails that do not parse."""

import base64
import quopri

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.recipes.spam.mail import MAX_CHARS, mail_text

PLAIN = "From: A Person <someone@Shop.Example>\nSubject: Hello\n\nFirst line\n\n\n\nSecond   line\n"


def test_only_subject_senders_domain_and_body_are_seen() -> None:
    raw = (
        "From whoever@mbox.example Thu Aug 22 2002\nReturn-Path: <leak1@x>\nReceived: from leak2\nDate: leak3\nList-Id: leak4\n"
        "X-Spam-Status: leak5\nTo: leak6@x\nMessage-Id: <leak7@x>\nSender: leak8@x\n" + PLAIN
    )
    text = mail_text(raw)
    assert text == "Hello\nshop.example\nFirst line\n\nSecond line"
    assert "leak" not in text


@pytest.mark.parametrize("host", ["spamassassin.taint.org", "lists.netnoteinc.com", "jmason.org"])
def test_hosts_of_the_collections_keepers_are_masked(host: str) -> None:
    text = mail_text(f"From: a@{host}\nSubject: s\n\nwrite to zzzz@{host} or yyyy, see http://{host}/x\n")
    assert host not in text
    assert text == "s\nexample.org\nwrite to someone@example.org or someone, see http://example.org/x"


def test_the_footer_of_the_list_a_mail_was_filed_through_goes() -> None:
    footer = (
        "\n_______________________________________________\nSpamassassin-Sightings mailing list\nS@lists.example\nhttps://lists.example/x\n"
    )
    assert mail_text("Subject: s\n\nbuy this" + footer) == "s\n\nbuy this"


def part(kind: str, body: str, *headers: str) -> str:
    return "\n".join(["--B", f"Content-Type: {kind}", *headers, "", body, ""])


@pytest.mark.parametrize(
    ("encoding", "encoded"),
    [
        ("base64", base64.b64encode("Grüße für dich".encode("latin-1")).decode()),
        ("quoted-printable", quopri.encodestring("Grüße für dich".encode("latin-1")).decode()),
    ],
)
def test_encoded_bodies_are_decoded_by_their_charset(encoding: str, encoded: str) -> None:
    headers = f"Subject: =?iso-8859-1?Q?Gr=FC=DFe?=\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: {encoding}\n"
    assert mail_text(f"{headers}\n{encoded}\n") == "Grüße\n\nGrüße für dich"


def test_unencoded_text_is_kept_whatever_charset_the_header_claims() -> None:
    assert "naïve €" in mail_text("Subject: s\nContent-Type: text/plain; charset=us-ascii\n\nnaïve €\n")


def test_of_alternatives_the_plain_text_counts_and_attachments_do_not() -> None:
    raw = (
        'Subject: s\nContent-Type: multipart/mixed; boundary="B"\n\n'
        + part("text/plain", "the words")
        + part("text/html", "<b>other words</b>")
        + part("application/octet-stream", base64.b64encode(b"MZ bytes").decode(), "Content-Transfer-Encoding: base64")
        + "--B--\n"
    )
    assert mail_text(raw) == "s\n\nthe words"


def test_html_is_read_as_a_person_would() -> None:
    html = (
        "<html><head><title>t</title><style>p {x}</style></head><body><!-- hidden --><p>Big&nbsp;<b>offer</b> &amp; more<br>now"
        "<script>evil()</script></p></body></html>"
    )
    for kind in ("text/html", "text/plain"):
        assert mail_text(f"Subject: s\nContent-Type: {kind}\n\n{html}") == "s\n\nBig offer & more\nnow"


BROKEN = {
    "nothing": "",
    "no headers": "just words",
    "only headers": "Subject: s",
    "open multipart": 'Subject: s\nContent-Type: multipart/mixed; boundary="B"\n\n--B\nContent-Type: text/plain\n\nwords',
    "no boundary": "Subject: s\nContent-Type: multipart/mixed\n\nwords",
    "unknown charset": "Subject: s\nContent-Type: text/plain; charset=klingon\nContent-Transfer-Encoding: base64\n\nd29yZHM=\n",
    "bad base64": "Subject: s\nContent-Transfer-Encoding: base64\n\n!!!! not base64 words\n",
    "bad encoded word": "Subject: =?nope?B?////?= =?utf-8?B?x?=\n\nwords",
    "bad address": "From: @@@ <<>>\nSubject: s\n\nwords",
    "html that never ends": "Subject: s\nContent-Type: text/html\n\n<html><body><p>words<![bad <a href='",
    "declaration": "Subject: s\nContent-Type: text/html\n\n<!DOCTYPE [<!ENTITY x 'y'>]><![CDATA[ words",
    "control characters": "Subject: s\n\nwor\x00ds\x1b \ufffd",
    "lone surrogate": "Subject: s\n\nwords \ud800",
    "attached mail": "Subject: s\nContent-Type: message/rfc822\n\nSubject: inner\n\nwords",
    "deep nesting": "".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(200)) + "\nwords",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_mail_that_does_not_parse_is_read_as_far_as_it_goes(name: str) -> None:
    text = mail_text(BROKEN[name])
    text.encode()
    assert "\x00" not in text
    assert "\ufffd" not in text


def test_a_long_mail_is_cut() -> None:
    assert len(mail_text("Subject: s\n\n" + "words " * 100_000)) == MAX_CHARS


@settings(max_examples=200)
@given(st.text(max_size=300))
def test_any_text_goes_in_and_text_without_control_characters_comes_out(raw: str) -> None:
    text = mail_text(raw)
    text.encode()
    assert not any(ord(character) < 32 and character not in "\n" for character in text)
    assert text == mail_text(raw)


FRAGMENTS = [line + "\n" for raw in BROKEN.values() if len(raw) < 500 for line in raw.split("\n")] + [
    "--B--\n",
    "\n",
    "From: =?x?=\n",
    "Subject:\n",
]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14))
def test_headers_and_parts_in_any_order_are_read_somehow(fragments: list[str]) -> None:
    mail_text("".join(fragments)).encode()
