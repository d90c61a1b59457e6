"""An item's content, opened: the one place where the secret, the ciphertext and E come together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evidence import store as rows
from evidence.content import open_content
from evidence.errors import Erased, NotFound
from evidence.keystore import KeyStore
from evidence.store import ItemRow, Store
from models import template as templates
from models.canonical import JSONValue, parse
from models.commitment import StageCommitment, commit
from models.errors import Malformed, VerificationError
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
        """The row and its E, read strictly. Raises: NotFound, Erased; Malformed if the stored bytes were altered."""
        row = self.row(leaf_index)
        return row, Evidence.parse(row.data or b"")

    def secret(self, row: ItemRow) -> bytes | None:
        """The item's secret, or None for a sealed submission. Raises: Erased."""
        try:
            return self._secrets.get(row.evidence_id)
        except NotFound:
            return None

    def open(self, leaf_index: int) -> Opened:
        """The item with its content.

        Raises: NotFound, Erased; VerificationError or Malformed if stored bytes were altered.
        """
        row, evidence = self.evidence(leaf_index)
        template = template_of(evidence)
        secret = self.secret(row)
        with self._store.reading() as connection:
            sealed = rows.read_content(connection, leaf_index)
        if secret is None or sealed is None:
            if evidence.validated_by == "platform":
                raise VerificationError(f"content or secret of an item is missing (leaf {leaf_index})")
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
    except Malformed as error:
        raise NotFound(f"template is not known here: {statement.template_name[:64]}") from error
    if template.pair != statement.template_pair:
        raise VerificationError(f"template has other bytes than the item was made under: {statement.template_name[:64]}")
    return template
