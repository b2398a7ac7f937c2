"""The salt of a rollout: what decides who its canaries are.

It follows from the rollout's id and a secret of this fleet, so that a dry run shows the very devices that the rollout will reach, and no
device can find an id's canaries by itself. The secret is made at the first use and stays.
"""

import hashlib
import hmac
import secrets

from sqlalchemy import insert, select

from workers.orchestrator import tables
from workers.orchestrator.writer import Session

SECRET = "salt_secret"  # noqa: S105 - the name of its row


def salt_of(session: Session, rollout_id: str) -> str:
    """32 hex digits; the same for the same id, as long as the database lives."""
    facts = tables.facts
    secret = session.connection.scalar(select(facts.c.value).where(facts.c.name == SECRET))
    if secret is None:
        secret = secrets.token_hex(32)
        session.connection.execute(insert(facts).values(name=SECRET, value=secret))
    return hmac.new(bytes.fromhex(secret), rollout_id.encode(), hashlib.sha256).hexdigest()[:32]
