"""The entry of the command `evidence`.

It imports nothing of ours before it can catch: a broken installation must end with 70 and one
sentence, never with the 1 that Python gives an import error, because 0, 1 and 2 are verdicts.
"""

from __future__ import annotations

import sys

INTERNAL_ERROR = 70
INTERRUPTED = 130
BROKEN_PIPE = 141


def main() -> int:
    """The exit code of the command line of this process (interface §2)."""
    try:
        from evidence.cli.app import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except BaseException as error:  # noqa: BLE001 - the top of the process: whatever it is must not become a verdict
        try:
            sys.stderr.write(
                f"evidence: internal error: {type(error).__name__} while starting; reinstall, or see EVIDENCE_DEBUG=1\n"
            )
        except Exception:  # noqa: BLE001 - stderr itself may be closed; the code still says it
            return INTERNAL_ERROR
        return INTERNAL_ERROR


if __name__ == "__main__":
    sys.exit(main())
