"""G6: one item's bundle verified offline, against the bare SM2 verifications that it cannot do without.

A real service preserves one file, anchors it on the embedded ledger and issues the bundle. Measured is
the whole of `verify`: unpacking, parsing, every check, the report. The baseline is libcrypto alone on
the same keys: as many SM2 verifications as that one verdict makes. The parts are said on stderr.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import tempfile
from pathlib import Path

from harness import alternate, note, options, pin, report, seconds_each
from load import submission

from evidence.access import Caller, Role
from evidence.bootstrap import initialise, open_service
from evidence.settings import load_settings
from evidence.verifier import verify
from models import signature
from models.report import Verdict
from models.signature import SM2Signer

BUNDLES = 40
PARTS = {
    "SM2 verifications": ("signature.py", "verify"),
    "unpacking": ("bundle.py", "unpack"),
    "strict JSON": ("canonical.py", "parse_canonical"),
    "hashing leaves and nodes": ("merkle.py", "verify_inclusion"),
    "fields against StageHash": ("commitment.py", "verify_disclosure"),
    "trust file": ("trust.py", "parse"),
}


async def issue(home: Path) -> tuple[bytes, bytes]:
    """One bundle and the trust file of the service that issued it."""
    settings = load_settings({"EVIDENCE_HOME": str(home)}, anchor_interval_s=0.05)
    initialise(settings)
    service = await open_service(settings)
    await service.start()
    caller = Caller("local", frozenset({Role.BUSINESS}), settings.subject_id, settings.subject_name)
    try:
        [kept] = await service.preservation.preserve([json.loads(submission(1))], caller, request_id="bench")
        if isinstance(kept, Exception):
            raise kept
        await service.anchoring.wait_final(kept.leaf_index, 30)
        return await service.issuance.bundle(kept.evidence_id, caller), service.trust()
    finally:
        await service.stop()


def profile(bundle: bytes, trust: bytes) -> int:
    """Say how the time of one verdict divides; how many SM2 verifications it makes."""
    profiler = cProfile.Profile()
    profiler.enable()
    verify(bundle, trust)
    profiler.disable()
    stats = pstats.Stats(profiler)
    found = {(Path(file).name, name): value for (file, _, name), value in stats.stats.items()}  # type: ignore[attr-defined]  # pstats has no types for it
    total = stats.total_tt  # type: ignore[attr-defined]  # the same
    for part, key in PARTS.items():
        if key in found:
            note(f"G6 part: {part}: {found[key][3] / total:.0%} of the time (profiled), {found[key][1]} calls")
    return int(found[PARTS["SM2 verifications"]][1])


def main() -> None:
    """One line, and the parts on stderr."""
    chosen = options(__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="evidence-bench-") as folder:
        bundle, trust = asyncio.run(issue(Path(folder) / "home"))
    pin(0)
    if verify(bundle, trust).verdict is not Verdict.VALID:
        raise RuntimeError("the bundle is not valid")
    count = profile(bundle, trust)
    signer = SM2Signer.generate()
    message = b"m" * 200
    made = signer.sign(message)
    repeats = 4 if chosen.quick else BUNDLES

    def ours() -> None:
        for _ in range(repeats):
            verify(bundle, trust)

    def baseline() -> None:
        for _ in range(repeats * count):
            signature.verify(signer.public_key, message, made)

    baseline()
    mine, theirs = alternate(
        lambda: 1e3 * seconds_each(ours, repeats), lambda: 1e3 * seconds_each(baseline, repeats), chosen.pairs
    )
    against = f"its {count} SM2 verifications alone, bundle of {len(bundle)} bytes"
    report("G6", against, mine, theirs, "ms", wanted=None, more_is_better=False, quick=chosen.quick)


if __name__ == "__main__":
    main()
