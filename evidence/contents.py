"""An item's content, opened: the one place where the secret, the ciphertext and E come together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from evidence import store as rows
from evidence.content import open_content
from evidence.errors import Damaged, Erased, NotFound
from evidence.keystore import KeyStore
from evidence.store import ItemRow, Store
from models import template as templates
from models.canonical import JSONValue, parse
from models.commitment import StageCommitment, commit
from models.errors import Malformed, Unknown, VerificationError
from models.evidence import Evidence
from models.template import Template

MAX_CONTENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Opened:
    """A stored item with what it says; `secret` and `stages` are None where the contents stayed with the submitter."""

    row: ItemRow
    evidence: Evidence
    template: Template
    secret: bytes | None
    stages: Mapping[str, Mapping[str, JSONValue]] | None
    originals: tuple[Mapping[str, str], ...]

    def commitments(self) -> tuple[StageCommitment, ...]:
        """The stages, committed again from the content; they give the very digests of S.

        Raises: NotFound if the contents are not held; VerificationError if they give other digests.
        """
        if self.secret is None or self.stages is None:
            raise NotFound(
                "the contents of this item stayed with its submitter: expected an opening", hint="issue with --opening"
            )
        statement = self.evidence.statement
        made = commit(
            self.template,
            self.stages,
            secret=self.secret,
            log=statement.log,
            submitter=statement.submitter,
            client_key=statement.client_key,
        )
        if tuple((stage.name, stage.pair) for stage in made) != statement.stages:
            raise VerificationError(f"the stored content does not give the committed stages (leaf {self.row.leaf_index})")
        return made


@contextmanager
def _stored(leaf_index: int) -> Iterator[None]:
    """What does not verify within is a fault of what we hold, never of what a caller sent."""
    try:
        yield
    except (Malformed, Unknown, VerificationError) as error:
        hint = "an operator runs `evidence examine`: it names what is damaged"
        raise Damaged(f"stored bytes of leaf {leaf_index} do not verify: {error.message}", hint=hint) from error


class Contents:
    """Opens items: the main database gives E and the ciphertext, the key store the secret."""

    def __init__(self, store: Store, secrets: KeyStore) -> None:
        self._store, self._secrets = store, secrets

    def row(self, leaf_index: int) -> ItemRow:
        """The stored row. Raises: NotFound; Erased if E itself was destroyed."""
        with self._store.reading() as connection:
            row = rows.read_item(connection, leaf_index)
        if row is None:
            raise NotFound("no such item in this log")
        if row.data is None:
            raise Erased("the item was erased with all it held")
        return row

    def evidence(self, leaf_index: int) -> tuple[ItemRow, Evidence]:
        """The row and its E, read strictly. Raises: NotFound, Erased; Damaged if the stored bytes were altered."""
        row = self.row(leaf_index)
        with _stored(leaf_index):
            evidence = Evidence.parse(row.data or b"")
            if evidence.entry != row.entry:
                raise VerificationError("stored evidence does not give its entry")
            return row, evidence

    def secret(self, row: ItemRow, evidence: Evidence) -> bytes | None:
        """The item's secret, or None for a sealed submission. Raises: Erased; Damaged if it is lost or altered."""
        with _stored(row.leaf_index):
            try:
                return self._secrets.get(row.evidence_id)
            except NotFound as error:
                if evidence.validated_by == "platform":
                    raise VerificationError("secret of an item is missing") from error
                return None

    def open(self, leaf_index: int) -> Opened:
        """The item with its content.

        Raises: NotFound, Erased; Damaged if stored bytes were altered or are gone.
        """
        row, evidence = self.evidence(leaf_index)
        secret = self.secret(row, evidence)
        with self._store.reading() as connection:
            sealed = rows.read_content(connection, leaf_index)
        with _stored(leaf_index):
            template = template_of(evidence)
            if secret is None or sealed is None:
                if evidence.validated_by == "platform":
                    raise VerificationError("content of an item is missing")
                return Opened(row, evidence, template, None, None, ())
            value = parse(open_content(secret, evidence.evidence_id, bytes(sealed)), max_bytes=MAX_CONTENT_BYTES)
        return Opened(row, evidence, template, secret, value["stages"], tuple(value["originals"]))


def template_of(evidence: Evidence) -> Template:
    """The template an item was made under, by name and by the digests of its bytes.

    Raises: NotFound if this program ships no such template; VerificationError if it ships other bytes.
    """
    statement = evidence.statement
    try:
        template = templates.builtin(statement.template_name)
    except (Malformed, Unknown) as error:
        raise NotFound(f"template is not known here: {statement.template_name[:64]}") from error
    if template.pair != statement.template_pair:
        raise VerificationError(f"template has other bytes than the item was made under: {statement.template_name[:64]}")
    return template
