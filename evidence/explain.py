"""The bytes of every step and the openssl commands that repeat it, for someone who trusts none of our code.

What a hash or a signature decides is in the script; rules of form (schema, order, policy, windows)
are not, and what the verifier refused for such a reason stands in it as FAIL with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from evidence.checks.case import TREES, Case, Item, read
from evidence.checks.content import template_of
from evidence.checks.judge import Judge
from evidence.explain_script import Script
from evidence.verifier import verify
from models.anchor import ChainReceipt, Payload, Record
from models.bundle import MANIFEST, MAX_JSON_BYTES, encode, manifest_of, numbers, unpack
from models.canonical import JSONValue, b64, canonical, canonical_text, parse, parse_canonical, unb64, unb64u
from models.checkpoint import COSIGNATURE_TYPE, STATEMENT_TYPE, Note, TlogProof, VerifierKey
from models.commitment import open_field
from models.digest import Algorithm, sm3, unhex
from models.errors import EvidenceError, Malformed
from models.report import Report, Verdict
from models.template import Template
from models.trust import ChainTrust, TrustRoots

_NOT_A_KEY = b""


def explain(bundle: bytes, trust: bytes, folder: Path) -> Report:
    """The report; and in `folder` the bytes of each step with `explain.sh`, which exits 0 only if every command agrees.

    Shapes: `folder` is empty or does not exist. Malformed input writes nothing.
    Raises: Malformed if `folder` holds something.
    Source: interface §2 (verify --explain); formats §1, §4.
    """
    report = verify(bundle, trust)
    if report.verdict is None:
        return report
    if folder.exists() and any(folder.iterdir()):
        raise Malformed("folder is not empty: expected a new or an empty one")
    script = Script(folder)
    script.write("bundle.cz", bundle)
    script.write("trust.toml", trust)
    script.write("c/00", b"\0")
    script.write("c/01", b"\1")
    script.write("c/02", b"\2")
    script.write("report.json", report.to_text().encode())
    if report.kind in ("item", "transaction"):
        case = read(unpack(bundle), TrustRoots.parse(trust), Judge())
        _container(script, case)
        anchors = list(_anchors(case))
        for item in case.items:
            _Item(script, case, item).write()
        _history(script, case)
        for anchor in anchors:
            _anchor(script, case, anchor)
        _blocks(script, case)
    script.title("what the verifier refused or left open; for these no command stands here")
    for step in report.steps:
        if step.verdict in (Verdict.INVALID, Verdict.INDETERMINATE):
            script.fail(f"check {step.number} {step.name}: {step.verdict.value}: {step.detail}")
    script.finish()
    return report


class _Anchor(NamedTuple):
    """One anchor, read whole."""

    number: int
    payload: Payload
    receipt: ChainReceipt
    notes: dict[Algorithm, Note]

    @property
    def name(self) -> str:
        return f"anchors/{self.number}"


def _anchors(case: Case) -> Iterator[_Anchor]:
    """The anchors that can be read; their notes are then shown. The others are refused by the verifier."""
    for number in numbers(case.files, "anchors"):
        try:
            payload = Payload.parse(case.files[f"anchors/{number}/payload.json"])
            receipt = ChainReceipt.parse(case.files[f"anchors/{number}/receipt.json"])
            notes = {Algorithm.SM3: Note.parse(payload.checkpoint), Algorithm.SHA256: Note.parse(payload.twin)}
            for tree, note in notes.items():
                case.show(tree, note)
        except EvidenceError:
            continue
        yield _Anchor(number, payload, receipt, notes)


def _container(script: Script, case: Case) -> None:
    script.title("check 1: every file has the digests that manifest.json states")
    manifest = manifest_of(case.files, case.bundle.kind)
    script.write(f"files/{MANIFEST}", manifest)
    for name, data in case.files.items():
        script.write(f"files/{name}", data)
        file = f"files/{name}"
        entry = f"""'"name":"{name}","sha256":"'"$(hex sha256 {file})"'","size":{len(data)},"sm3":"'"$(hex sm3 {file})"'"'"""
        script.holds(f"digests of {name}", f"files/{MANIFEST}", entry)
    script.comment("the files stand in bundle.cz one after the other, each after its header: nothing else is in it")
    parts = _zip_parts(script, {MANIFEST: manifest, **case.files})
    script.same("bundle.cz is its headers and these files", script.join(*parts), "bundle.cz")


def _zip_parts(script: Script, files: dict[str, bytes]) -> list[str]:
    data, position, parts = encode(files), 0, []
    for number, (name, content) in enumerate(files.items()):
        size = 30 + len(name)
        parts += [script.write(f"zip/{number}", data[position : position + size]), f"files/{name}"]
        position += size + len(content)
    return [*parts, script.write("zip/end", data[position:])]


def _note_of(script: Script, folder: str, proof: TlogProof) -> str:
    """The checkpoint text that a proof file ends with, tied to that file."""
    return script.write(f"{folder}/checkpoint.txt", proof.note.text.encode())


class _Item:
    """The commands of one evidence: checks 3, 4, 5, 8, 10, 11 and 13."""

    def __init__(self, script: Script, case: Case, item: Item) -> None:
        self.script, self.case, self.item = script, case, item
        self.folder = f"item/{item.number}"
        self.file = f"files/{item.name}/evidence.json"
        self.statement = ""

    def write(self) -> None:
        """All of them, in order."""
        self._evidence()
        self._disclosure()
        self._signature()
        for tree in TREES:
            if tree in self.item.proofs:
                self._inclusion(tree, self.item.proofs[tree])

    def _evidence(self) -> None:
        script, evidence = self.script, self.item.evidence
        script.title(f"checks 3 and 4: {self.item.name}, statement and template")
        before, _, after = evidence.data.partition(evidence.statement.data)
        self.statement = script.write(f"{self.folder}/statement.json", evidence.statement.data)
        parts = [script.write(f"{self.folder}/before", before), self.statement, script.write(f"{self.folder}/after", after)]
        script.same("the statement stands in evidence.json as these bytes", script.join(*parts), self.file)
        script.comment("PackageHash = SM3 of evidence.json; evidence id = ev_ and SM3 of the statement")
        script.run(f"printf '      PackageHash %s\\n' \"$(hex sm3 {self.file})\"")
        script.run(f"printf '      ev_%s\\n' \"$(hex sm3 {self.statement})\"")
        template = f"{self.item.name}/template.json"
        if template in self.case.files:
            name = canonical_text(evidence.statement.template_name)
            marks = {Algorithm.SHA256: f'"template":{{"name":{name},"sha256":"', Algorithm.SM3: '","sm3":"'}
            for tree in TREES:
                what = f"{tree.value} of the template stands in the statement"
                script.digest_stands_in(what, tree, f"files/{template}", marks[tree], self.statement)

    def _disclosure(self) -> None:
        name = f"{self.item.name}/disclosure.json"
        if name not in self.case.files:
            return
        self.script.title(f"check 5: {self.item.name}, what is disclosed gives the StageHash of the statement")
        try:
            template = template_of(self.case, self.item)
            stages = parse_canonical(self.case.files[name], max_bytes=MAX_JSON_BYTES, what="disclosure")["stages"]
            for number, stage in enumerate(stages):
                self._stage(number, stage, template)
        except (EvidenceError, KeyError, TypeError, StopIteration, AttributeError) as error:
            self.script.fail(f"disclosure has a form that no command is written for ({type(error).__name__})")

    def _stage(self, number: int, stage: dict[str, JSONValue], template: Template) -> None:
        script = self.script
        folder, known = f"{self.folder}/stage/{number}", template.stage(stage["name"])
        leaves: dict[int, str] = {}
        flat = ["c/02"]
        if "flat_salt" in stage:
            flat.append(script.write(f"{folder}/salt", unb64u(stage["flat_salt"])))
        for text in stage["fields"]:
            index = known.field(open_field(text).field).place - known.start
            data = text.encode()
            name = script.write(f"{folder}/d{index}", data)
            disclosed = f"files/{self.item.name}/disclosure.json"
            script.holds(f"d{index} stands in disclosure.json", disclosed, _quoted(canonical_text(text)))
            leaves[index] = script.leaf(Algorithm.SM3, name)
            flat += [script.write(f"{folder}/length{index}", len(data).to_bytes(4, "big")), name]
        path = script.hashes(f"{folder}/proof", [unb64(each) for each in stage["proof"]])
        root = script.subset(Algorithm.SM3, leaves, len(known.fields), path)
        name = canonical_text(stage["name"])
        pair = next(digests for stated, digests in self.item.evidence.statement.stages if stated == stage["name"])
        before = f'{{"name":{name},"sha256":"{pair.sha256.hex()}","sm3":"'
        script.value_stands_in("StageHash stands in the statement", root, before, self.statement)
        if "flat_salt" in stage:
            twin = script.dgst(Algorithm.SHA256, script.join(*flat))
            script.value_stands_in("SHA-256 twin stands in the statement", twin, f'{{"name":{name},"sha256":"', self.statement)

    def _signature(self) -> None:
        script, signature = self.script, self.item.evidence.signature
        if signature is None:
            return
        script.title(f"check 8: {self.item.name}, the submitter's signature over the statement")
        script.holds("the signature stands in evidence.json", self.file, _quoted(f'"value":"{b64(signature.value)}"'))
        if signature.by_certificate:
            for name in self.case.files:
                if name.endswith(".cer"):
                    pem = script.new()
                    script.run(f'if test "$(hex sm3 files/{name})" = {signature.signer}; then')
                    script.run(f"openssl x509 -inform DER -in files/{name} -pubkey -noout > {pem}")
                    script.verify(f"SM2 signature under {name}", pem, self.statement, signature.value)
                    script.run("fi")
            return
        for entry in self.case.trust.submitters:
            if entry.vkey is not None and entry.vkey.key_id.hex() == signature.signer:
                pem = _trusted_key(script, entry.vkey)
                script.verify("SM2 signature under the account's key", pem, self.statement, signature.value)

    def _inclusion(self, tree: Algorithm, proof: TlogProof) -> None:
        script, folder = self.script, f"{self.folder}/{tree.value}"
        number = 10 if tree is Algorithm.SM3 else 13
        script.title(f"checks {number} and 11: {self.item.name}, its place in the {tree.value} tree and the log's signature")
        script.comment("entry = SM3(E) and SHA-256(E), 64 bytes; leaf = H(0x00, entry); node = H(0x01, left, right)")
        entry = script.join(script.dgst(Algorithm.SM3, self.file), script.dgst(Algorithm.SHA256, self.file))
        leaf = script.leaf(tree, entry)
        text = _note_of(script, folder, proof)
        try:
            head = proof.note.checkpoint()
        except Malformed:
            return
        path = script.hashes(f"{folder}/path", proof.path)
        root = script.inclusion(tree, leaf, proof.index, head.size, path)
        made = script.new()
        script.run(f"printf '%s\\n%s\\n%s\\n' {head.origin} {head.size} \"$(openssl base64 -A -in {root})\" > {made}")
        script.same("the root is the one that the checkpoint states", made, text)
        lines = script.write(f"{folder}/head", _proof_head(proof))
        rest = script.write(f"{folder}/lines", proof.note.data[len(proof.note.text) :].encode())
        name = f"files/{self.item.name}/{tree.value}.tlog-proof"
        script.same("the proof file is these index, hashes, checkpoint and lines", script.join(lines, text, rest), name)
        _lines(script, self.case, tree, proof.note.text, text)


def _proof_head(proof: TlogProof) -> bytes:
    return proof.format().removesuffix(proof.note.data).encode()


def _quoted(text: str) -> str:
    """`text` in single quotes for sh."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _trusted_key(script: Script, key: VerifierKey) -> str:
    """The key as PEM, tied to the trust file's own text."""
    pem = script.key(key.key_id.hex(), key.public_key)
    prefix = {COSIGNATURE_TYPE: COSIGNATURE_TYPE, STATEMENT_TYPE: STATEMENT_TYPE}.get(key.type, _NOT_A_KEY)
    script.key_stands_in(f"key {key.key_id.hex()} stands in trust.toml", pem, prefix, "trust.toml")
    return pem


def _known_keys(case: Case) -> Iterator[VerifierKey]:
    for log in case.trust.logs:
        yield from (entry.key for entry in log.keys)
    yield from (key for _, key in case.trust.policy.witnesses.witnesses)


def _lines(script: Script, case: Case, tree: Algorithm, text: str, file: str) -> None:
    """Every line over a checkpoint whose key stands in the trust file: SM2 over `cosignature/v1`, time T, the text."""
    shown = case.shown[tree].get(text)
    keys = {(key.name, key.key_id): key for key in _known_keys(case) if key.type == COSIGNATURE_TYPE}
    for line in shown.lines.values() if shown is not None else ():
        key = keys.get((line.name, line.key_id))
        if key is None:
            continue
        pem = _trusted_key(script, key)
        stamp = script.new()
        script.run(f"printf 'cosignature/v1\\ntime %s\\n' {line.time} > {stamp}")
        script.verify(f"line of {line.name} key {line.key_id.hex()}", pem, script.join(stamp, file), line.signature)


def _history(script: Script, case: Case) -> None:
    for (tree, old, new), proof in case.consistency.items():
        name = f"log/{tree.value}/{old}-{new}.consistency"
        script.title(f"check 12: the {tree.value} tree of size {new} continues that of size {old}")
        roots = {shown.checkpoint.size: shown.checkpoint.root for shown in case.by_size(tree)}
        if old not in roots or new not in roots or not 0 < old < new or (not proof.path and old & (old - 1)):
            script.fail(f"{name} joins no two checkpoints shown")
            continue
        folder = f"history/{tree.value}-{old}-{new}"
        ends = [script.write(f"{folder}/{size}", roots[size]) for size in (old, new)]
        path = script.hashes(f"{folder}/path", proof.path)
        first, second = script.consistency(tree, old, new, ends[0], path)
        script.same(f"the proof leads to the root of size {old}", first, ends[0])
        script.same(f"the proof leads to the root of size {new}", second, ends[1])
        head = f"old {old}\n" + "".join(b64(each) + "\n" for each in proof.path) + "\n"
        parts = [script.write(f"{folder}/head", head.encode()), script.write(f"{folder}/note", proof.note.data.encode())]
        script.same("the consistency file is these hashes and this note", script.join(*parts), f"files/{name}")
        script.holds(f"the note states the root of size {new}", f"{folder}/note", f'"$(openssl base64 -A -in {second})"')


def _anchor(script: Script, case: Case, anchor: _Anchor) -> None:
    payload, receipt = anchor.payload, anchor.receipt
    file = f"files/{anchor.name}/payload.json"
    folder = f"anchor/{anchor.number}"
    script.title(f"check 14: {anchor.name}, the payload on chain {payload.chain}")
    named = script.write(f"{folder}/key", canonical(["cz-anchor-key/1", payload.chain, payload.head.origin, payload.start]))
    mark = f'"format":"cz-receipt/1","height":{receipt.height},"key":"'
    script.digest_stands_in(
        "the anchor's key stands in the receipt", Algorithm.SM3, named, mark, f"files/{anchor.name}/receipt.json"
    )
    for tree, note in anchor.notes.items():
        whole = script.write(f"{folder}/{tree.value}.note", note.data.encode())
        text = script.write(f"{folder}/{tree.value}.txt", note.text.encode())
        escaped = f'"$(while IFS= read -r line; do printf "%s\\\\\\\\n" "$line"; done < {whole})"'
        script.holds(f"the {tree.value} note stands in the payload", file, escaped)
        root = script.write(f"{folder}/{tree.value}.root", note.checkpoint().root)
        script.holds("its root stands in its text", text, f'"$(openssl base64 -A -in {root})"')
        stage = "日志根-SM3" if tree is Algorithm.SM3 else "日志根-SHA256"
        script.run(
            f"holds 'root of {tree.value} is a stage of the first record' {file} "
            f'\'"StageHash":"\'"$(od -An -v -tx1 {root} | tr -d \' \\n\')"\'","StageName":"{stage}"\''
        )
        _lines(script, case, tree, note.text, text)
    script.digest_stands_in(
        "PackageHash of the first record is SM3 of the checkpoint", Algorithm.SM3, f"{folder}/sm3.txt", '"PackageHash":"', file
    )
    for item in case.items:
        record = payload.record(item.evidence.package_hash)
        if record is not None:
            _record(script, item, record, file, folder)
    if receipt.engine == "embedded":
        _embedded(script, case, anchor, folder)
    else:
        script.comment(f"check 15: receipts of engine {receipt.engine} are explained by its README")


def _record(script: Script, item: Item, record: Record, file: str, folder: str) -> None:
    text = script.write(f"{folder}/record-{item.number}.json", canonical(record.value))
    script.holds(f"record of {item.name} stands in the payload", file, f'"$(cat {text})"')
    evidence = f"files/{item.name}/evidence.json"
    script.digest_stands_in("it holds PackageHash", Algorithm.SM3, evidence, '"PackageHash":"', text)
    for name, digests in item.evidence.statement.stages:
        stage = f'"StageHash":"{digests.sm3.hex()}","StageName":{canonical_text(name)}'
        script.holds("it holds the StageHash of the statement", text, _quoted(stage))


def _embedded(script: Script, case: Case, anchor: _Anchor, folder: str) -> None:
    """Check 15 for the embedded ledger (formats §4.6): transaction, its place in the block, the seals."""
    receipt, payload = anchor.receipt, anchor.payload
    chain = case.trust.chain(receipt.chain)
    if chain is None:
        return
    script.title(f"check 15: {anchor.name}, the receipt of chain {chain.id}")
    try:
        proof = receipt.proof
        header, transaction = proof["header"], proof["transaction"]
        path = [unb64(each, size=32) for each in proof["path"]]
        seals = {unhex(seal["node"]).hex(): unb64(seal["value"], size=64) for seal in proof["seals"]}
        signed, mark, tail = transaction.rpartition(',"signature":"')
        signature = unb64(tail.removesuffix('"}'), size=64)
        place, escaped = int(proof["index"]), canonical_text(payload.data.decode())
        count = int(header.partition('"tx_count":')[2].partition(",")[0])
        sender = signed.rpartition('"sender":"')[2].removesuffix('"')
        key = unb64(sender, size=65)
        before, found, after = transaction.partition(escaped)
    except (EvidenceError, KeyError, TypeError, ValueError, AttributeError) as error:
        script.fail(f"receipt has a form that no command is written for ({type(error).__name__})")
        return
    file = script.write(f"{folder}/transaction", transaction.encode())
    body = script.write(f"{folder}/signed", (signed + "}").encode())
    if not found or not mark or not 0 <= place < count:
        script.fail("transaction does not hold the payload shown, or has no place in its block")
        return
    script.comment("the payload stands in the transaction as JSON text; read without -r takes the escapes away")
    pieces = [script.write(f"{folder}/tx{number}", piece.encode()) for number, piece in enumerate((before, escaped[1:-1], after))]
    quote = script.write("c/quote", b'"')
    script.same("the transaction holds this text", script.join(pieces[0], quote, pieces[1], quote, pieces[2]), file)
    plain = script.new()
    script.run(f"IFS= read line < {pieces[1]}; printf '%s' \"$line\" > {plain}")
    script.same("which is the payload", plain, f"files/{anchor.name}/payload.json")
    script.digest_stands_in(
        "tx_id of the receipt is SM3 of the transaction", Algorithm.SM3, file, '"tx_id":"', f"files/{anchor.name}/receipt.json"
    )
    pem = script.key(f"sender-{anchor.number}", key)
    script.key_stands_in("the sender's key stands in the transaction", pem, b"", file)
    script.verify("the sender's signature over the transaction", pem, body, signature)
    root = script.inclusion(Algorithm.SM3, script.leaf(Algorithm.SM3, file), place, count, script.hashes(f"{folder}/path", path))
    block = script.write(f"{folder}/header", header.encode())
    script.value_stands_in("the transaction stands in the block", root, f'"tx_count":{count},"tx_root":"', block)
    _seals(script, chain, receipt.height, seals, block)


def _blocks(script: Script, case: Case) -> None:
    """Check 17 for blocks of the embedded ledger that the evidence names: the header and its seals."""
    for number in numbers(case.files, "blocks"):
        name = f"blocks/{number}.json"
        try:
            value = parse(case.files[name], max_bytes=MAX_JSON_BYTES)
            chain, height, proof = case.trust.chain(value["chain"]), value["height"], value["proof"]
            if value["engine"] != "embedded" or chain is None:
                continue
            seals = {unhex(seal["node"]).hex(): unb64(seal["value"], size=64) for seal in proof["seals"]}
            header = proof["header"].encode()
        except (EvidenceError, KeyError, TypeError, ValueError, AttributeError):
            continue  # refused by check 17
        script.title(f"check 17: {name}, a block of chain {chain.id} that was there before the evidence")
        block = script.write(f"block/{number}/header", header)
        script.holds("its header stands in the proof", f"files/{name}", _quoted(canonical_text(proof["header"])))
        for item in case.items:
            for ref in item.evidence.after:
                if (ref.chain, ref.height) == (chain.id, height):
                    evidence = f"files/{item.name}/evidence.json"
                    mark = f'"chain":"{chain.id}","hash":"'
                    script.digest_stands_in(f"{item.name} names it", Algorithm.SM3, block, mark, evidence)
        _seals(script, chain, height, seals, block)


def _seals(script: Script, chain: ChainTrust, height: int, seals: dict[str, bytes], block: str) -> None:
    epoch = chain.epoch(height)
    if epoch is None:
        script.fail("trust file has no epoch for the block")
        return
    script.comment("each seal is a node's SM2 signature over the header; the node's name is SM3 of its key")
    script.run("before=$fails; seals=0")
    for validator in epoch.validators:
        try:
            key = unb64(validator.key, size=65)
        except Malformed:
            script.fail("a validator's key in trust.toml is not base64 of 65 bytes")
            continue
        node = sm3(key).hex()
        if node not in seals:
            continue
        raw, pem = script.write(f"keys/{node}.raw", key), script.key(node, key)
        script.run(f'if test "$(hex sm3 {raw})" = {node}; then seals=$((seals + 1)); fi')
        script.key_stands_in("key of the node stands in trust.toml", pem, b"", "trust.toml")
        script.verify(f"seal of node {node[:8]}", pem, block, seals[node])
    script.run(
        f'if test "$seals" -ge {epoch.needed()} && test "$fails" -eq "$before"; then ok "$seals seals of at least '
        f'{epoch.needed()}"; else bad "too few seals"; fi'
    )
