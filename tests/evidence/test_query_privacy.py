"""Who sees contents: the item's own subject and a court; nobody by holding a second role."""

from __future__ import annotations

from pathlib import Path

from homes import file_submission, preserved, serving, settings_of

from evidence.access import Caller, Role


async def test_contents_and_originals_are_shown_by_subject_not_by_role_alone(tmp_path: Path) -> None:
    async with serving(settings_of(tmp_path / "home")) as service:
        body = file_submission()
        digest = body["stages"]["文件"]["object"]["digest"]
        body["originals"] = [{"field": "object", "digest": digest, "name": "合同.txt", "media_type": "text/plain"}]
        answer = await preserved(service, body)
        subject = service.home.facts.subject
        sees = {
            "own": Caller("a", frozenset({Role.BUSINESS}), *subject),
            "court": Caller("b", frozenset({Role.COURT}), "", ""),
        }
        does_not = {
            "operator": Caller("c", frozenset({Role.OPERATOR}), "", ""),
            "auditor": Caller("d", frozenset({Role.AUDITOR}), "", ""),
            "another subject that also operates": Caller("e", frozenset({Role.BUSINESS, Role.OPERATOR}), "s2", "另一证券"),
        }
        for caller in sees.values():
            shown = service.query.item(answer.evidence_id, caller)
            assert shown["originals"][0]["digest"] == digest
            assert shown["contents"]["文件"]["source"] == "测试"
        for name, caller in does_not.items():
            shown = service.query.item(answer.evidence_id, caller)
            assert shown["originals"][0]["digest"] is None, name
            assert shown["originals"][0]["name"] is None, name
            assert digest not in str(shown["contents"]), name
            assert "测试" not in str(shown["contents"]), name
