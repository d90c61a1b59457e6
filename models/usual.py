"""The usual forms of what an answer has one of for every slice, recognised whole.

Almost every header, index row and index leaf is written one way. What matches here *is* canonical, so
it needs no second encoding to show that; what does not match says nothing yet, and is read by the
general rules, which refuse. So nothing is accepted here that they would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_INT: Final = "(0|[1-9][0-9]{0,14})"
_HEX: Final = '"([0-9a-f]{64})"'
_PAIR: Final = rf'\{{"sha256":{_HEX},"sm3":{_HEX}\}}'
_TIME: Final = r'"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z)"'
_STREAM: Final = "[a-z0-9._-]{1,64}"
_BLOCK: Final = r'\{"chain":"[a-z0-9][a-z0-9._-]{0,63}","hash":"[0-9a-f]{2,128}","height":(?:0|[1-9][0-9]{0,14})\}'
_RULE: Final = r'\{"name":"[a-z0-9._-]{1,64}","sha256":"[0-9a-f]{64}","sm3":"[0-9a-f]{64}"\}'

HEADER: Final = re.compile(
    rf'\{{"after":(\[(?:{_BLOCK}(?:,{_BLOCK})*+)?\]),"bytes":{_INT},"content":{_PAIR},"declaration":{_PAIR},"epoch":null,'
    rf'"first_time":(?:null|{_TIME}),"format":"cz-slice/1","index":(?:null|{_PAIR}),"kind":"(data|heartbeat)",'
    rf'"last_time":(?:null|{_TIME}),"lines":{_INT},"next_by":(?:null|{_TIME}),"number":{_INT},"pieces":{_INT},'
    rf'"previous":(?:null|{_PAIR}),"reason":null,"rules":(null|\[(?:{_RULE}(?:,{_RULE})*+)?\]),"slice_create_time":{_TIME},'
    rf'"slice_end_position":"{_INT}:{_INT}","slice_id":"({_STREAM})/{_INT}","slice_start_position":"{_INT}:{_INT}",'
    rf'"stream_id":"({_STREAM})"\}}'
)
"""A header of records or a sign of life that opens no epoch; its groups are the members in order."""

_B64U: Final = "[A-Za-z0-9_-]"
_PLACE: Final = r"\[(?:0|[1-9][0-9]{0,5}),(?:0|[1-9][0-9]{0,8})\]"
_PLACES: Final = rf"(?:{_PLACE}(?:,{_PLACE})*+)?"
INDEX_LEAF: Final = re.compile(rf'\["cz-index/1","{_B64U}{{22}}","{_B64U}{{1,342}}",(?:0|[1-9][0-9]{{0,14}}),\[{_PLACES}\]\]')
"""An index leaf; its texts are base64 still to be read."""

_LEAF: Final = r'\[(?:0|[1-9][0-9]{0,8}),"(?:[ !#-\[\]-~]|\\")*+"\]'
_HASH: Final = r'"[A-Za-z0-9+/]{43}="'
INDEX_ROW: Final = re.compile(
    rf'\{{"leaves":\[{_LEAF}(?:,{_LEAF})*+\],"number":(?:0|[1-9][0-9]{{0,14}}),"proof":\[(?:{_HASH}(?:,{_HASH})*+)?\]\}}'.encode()
)
"""A row of the index with its proof; its hashes are base64 still to be read."""

_SALT: Final = f"{_B64U}{{21}}[AQgw]"
_DIGEST: Final = "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]"


def row_of_leaves(leaves: Sequence[tuple[int, str]], hashes: int) -> re.Pattern[bytes]:
    """The form of a row of the index that shows the leaves of exactly these ranks and keywords, with a proof of so many hashes.

    Its groups: of each leaf its text as it stands in the row, its n, its places; then the number, and the hashes from the first
    to the last, `=","` between any two. Salts and hashes are base64 in its one form and of the right length.

    Shapes: `leaves` as (rank, keyword in b64u), ranks ascending, at least one.
    """
    entries = ",".join(
        rf'\[{rank},"(\[\\"cz-index/1\\",\\"{_SALT}\\",\\"{keyword}\\",{_INT},\[({_PLACES})\]\])"\]' for rank, keyword in leaves
    )
    proof = rf'"({_DIGEST}(?:=","{_DIGEST}){{{hashes - 1}}})="' if hashes else "()"
    return re.compile(rf'\{{"leaves":\[{entries}\],"number":{_INT},"proof":\[{proof}\]\}}'.encode())
