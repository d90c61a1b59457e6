"""The numbered steps of the service: where a fault is put in, and in tests only, is put out again.

Each irreversible act has a step before and one after it. Production hands in `no_step`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """Every point at which the process may die; tests loop over all of them (reliability R1)."""

    SECRETS_BEFORE = "secrets-before"
    SECRETS_AFTER = "secrets-after"
    INSERT_BEFORE = "insert-before"
    INSERT_AFTER = "insert-after"
    SIGN_BEFORE = "sign-before"
    SIGN_AFTER = "sign-after"
    COMMIT_BEFORE = "commit-before"
    COMMIT_AFTER = "commit-after"
    ANSWER_BEFORE = "answer-before"
    ANSWER_AFTER = "answer-after"
    INTENT_BEFORE = "intent-before"
    INTENT_AFTER = "intent-after"
    SUBMIT_BEFORE = "submit-before"
    SUBMIT_AFTER = "submit-after"
    RECEIPT_BEFORE = "receipt-before"
    RECEIPT_AFTER = "receipt-after"
    FINAL_BEFORE = "final-before"
    FINAL_AFTER = "final-after"
    ORIGINAL_WRITE_BEFORE = "original-write-before"
    ORIGINAL_WRITE_AFTER = "original-write-after"
    ORIGINAL_RENAME_BEFORE = "original-rename-before"
    ORIGINAL_RENAME_AFTER = "original-rename-after"
    ORIGINAL_ROW_BEFORE = "original-row-before"
    ORIGINAL_ROW_AFTER = "original-row-after"
    SLICE_WRITE_BEFORE = "slice-write-before"
    SLICE_WRITE_AFTER = "slice-write-after"
    SLICE_RENAME_BEFORE = "slice-rename-before"
    SLICE_RENAME_AFTER = "slice-rename-after"
    SLICE_KEEP_BEFORE = "slice-keep-before"
    SLICE_KEEP_AFTER = "slice-keep-after"


StepFunction = Callable[[Step], None]


def no_step(_step: Step) -> None:
    """Do nothing: the step function of a service that is not under test."""
