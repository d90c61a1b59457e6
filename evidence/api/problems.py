"""What a refusal looks like over HTTP: RFC 9457, from one table error → status, name, retry, title.

A body never holds a value that was sent: `got` is a type and a length, and `detail` is the error's
own sentence, which by convention holds nothing personal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from starlette.responses import Response

from chain_gateway import port
from evidence import errors as service
from models import errors as data
from models.canonical import JSONValue
from models.errors import EvidenceError, Problem

MEDIA_TYPE = "application/problem+json"


class Retry(StrEnum):
    """What a client should do: the same again at once, later, after mending the request, or never."""

    NOW = "now"
    LATER = "later"
    FIX = "fix"
    NEVER = "never"


class UnsupportedMedia(service.ServiceError):
    """The body has a content type or content coding that the route does not read (415)."""


class NotAcceptable(service.ServiceError):
    """The route has no form that the caller accepts (406)."""


class MethodRefused(service.ServiceError):
    """The path exists, the method does not (405)."""

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class RangeRefused(service.ServiceError):
    """No part of the original lies in the range that was asked for (416)."""

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class BodyLate(service.ServiceError):
    """The body did not arrive in time, or ended before its declared length (408)."""


class HeadTooLarge(service.ServiceError):
    """Address and headers together are longer than the service reads (431)."""


class Busy(service.Overloaded):
    """This caller has too many requests under way (429)."""


class QueryRefused(data.Invalid):
    """A path or query parameter is unknown, missing or of the wrong form (422)."""


class Internal(service.ServiceError):
    """Something of ours broke; the log has it under the request id (500)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem: its status, the NAME of `/problems/NAME`, what to do, and both titles."""

    status: int
    name: str
    retry: Retry
    title_zh: str
    title_en: str

    @property
    def type(self) -> str:
        """The problem's `type`, the address of a page that exists."""
        return f"/problems/{self.name}"

    def title(self, language: str) -> str:
        """The title in `zh` or `en`."""
        return self.title_en if language == "en" else self.title_zh


TABLE: dict[type[EvidenceError], Kind] = {
    data.Malformed: Kind(400, "malformed", Retry.FIX, "格式不正确", "The form is wrong"),
    data.Invalid: Kind(422, "invalid", Retry.FIX, "内容不符合要求", "The content breaks a rule"),
    QueryRefused: Kind(422, "parameter-refused", Retry.FIX, "参数不正确", "A parameter is wrong"),
    data.Unknown: Kind(422, "unknown-version", Retry.FIX, "未知的模板、版本或算法", "Unknown template, version or algorithm"),
    data.VerificationError: Kind(
        422, "verification-failed", Retry.FIX, "签名或证明未通过验证", "A signature or proof does not verify"
    ),
    data.Undecided: Kind(422, "undecided", Retry.FIX, "缺少依据，无法判定", "It cannot be decided from what is at hand"),
    data.SigningUnavailable: Kind(503, "signing-unavailable", Retry.LATER, "暂时无法签名", "Signing is not available"),
    service.NotFound: Kind(404, "not-found", Retry.NEVER, "未找到", "Nothing here has that name"),
    service.Ambiguous: Kind(409, "ambiguous", Retry.FIX, "编号前缀不唯一", "The prefix fits several items"),
    service.Conflict: Kind(
        409, "conflict", Retry.NEVER, "同一 client_key 已存有不同内容", "The client key stands for other content"
    ),
    service.Stale: Kind(409, "stale", Retry.FIX, "链式数据已有更新的环节", "The link has moved on"),
    service.Erased: Kind(410, "erased", Retry.NEVER, "内容已依法删除", "The item was erased"),
    service.Unauthorised: Kind(401, "unauthorised", Retry.FIX, "未提供有效的访问令牌", "No valid access token"),
    service.Forbidden: Kind(403, "forbidden", Retry.NEVER, "角色或主体无权进行此操作", "Roles or subject do not allow this"),
    service.NotFinal: Kind(409, "not-final", Retry.LATER, "尚未最终确认", "Not final yet"),
    service.TooLarge: Kind(413, "too-large", Retry.FIX, "超出大小限制", "Above the limit"),
    service.Unready: Kind(503, "unready", Retry.LATER, "服务尚未就绪", "The service is not ready"),
    service.Overloaded: Kind(503, "overloaded", Retry.LATER, "受理暂停，请稍后重试", "Intake pauses"),
    Busy: Kind(429, "busy", Retry.LATER, "请求过多，请稍后重试", "Too many requests at once"),
    service.OutcomeOpen: Kind(503, "outcome-open", Retry.NOW, "结果未定，请原样重发", "The outcome is open: send the same again"),
    service.StorageFull: Kind(507, "storage-full", Retry.LATER, "存储空间不足", "Storage is full"),
    service.HomeRefused: Kind(503, "home-refused", Retry.LATER, "数据目录不可用于签发", "The home may not sign"),
    port.ChainUnavailable: Kind(503, "chain-unavailable", Retry.LATER, "区块链节点不可达", "A chain node cannot be reached"),
    port.NotSubmitted: Kind(503, "not-submitted", Retry.LATER, "交易未提交", "The transaction was not submitted"),
    port.OutcomeUnknown: Kind(503, "chain-outcome-open", Retry.LATER, "上链结果未定", "The chain has not said what happened"),
    port.Rejected: Kind(409, "chain-rejected", Retry.NEVER, "区块链拒绝了交易", "The chain refused the transaction"),
    UnsupportedMedia: Kind(415, "unsupported-media-type", Retry.FIX, "不支持的内容类型", "Unsupported content type"),
    NotAcceptable: Kind(406, "not-acceptable", Retry.FIX, "无法提供所要求的格式", "No acceptable form"),
    MethodRefused: Kind(405, "method-not-allowed", Retry.NEVER, "不支持的方法", "Method not allowed"),
    RangeRefused: Kind(416, "range-not-satisfiable", Retry.FIX, "请求的范围不存在", "Range not satisfiable"),
    HeadTooLarge: Kind(431, "head-too-large", Retry.FIX, "请求头过长", "The request head is too large"),
    BodyLate: Kind(408, "request-timeout", Retry.NOW, "请求体未按时到齐", "The body did not arrive in time"),
    service.Damaged: Kind(500, "damaged", Retry.LATER, "存储内容受损", "Stored bytes are damaged"),
    Internal: Kind(500, "internal", Retry.LATER, "内部错误", "Internal error"),
}
"""Every error that can leave a route. A class that is not listed is answered as its nearest listed base."""

KINDS: dict[str, Kind] = {kind.name: kind for kind in TABLE.values()}

OF_SETTINGS = (service.SettingWrong,)
"""Errors that stop a start and so never reach a caller."""


def kind_of(error: EvidenceError) -> Kind:
    """The kind of problem that `error` is: that of its class or of the nearest listed base."""
    for base in type(error).__mro__:
        if base in TABLE:
            return TABLE[base]
    return TABLE[Internal]


def problem_value(error: EvidenceError, *, request_id: str, language: str = "zh") -> dict[str, JSONValue]:
    """The problem object of `error`, as it stands in a body or in one result of a batch.

    Shapes: RFC 9457 members plus request_id, retry, errors; `hint`, `record_id`, `tombstone` where they exist.
    Source: RFC 9457; interface §3.
    """
    kind = kind_of(error)
    problems = error.problems if isinstance(error, data.Invalid) else ()
    value: dict[str, JSONValue] = {
        "type": kind.type,
        "title": kind.title(language),
        "status": kind.status,
        "detail": error.message,
        "request_id": request_id,
        "retry": kind.retry.value,
        "errors": [problem.to_json() for problem in problems],
    }
    if error.hint is not None:
        value["hint"] = error.hint
    if isinstance(error, service.Conflict) and error.record_id is not None:
        value["record_id"] = error.record_id
    if isinstance(error, service.Erased) and error.tombstone is not None:
        value["tombstone"] = dict(error.tombstone)
    return value


def headers_of(error: EvidenceError, *, language: str = "zh") -> dict[str, str]:
    """The headers that belong to the answer: when to come back, which methods exist, how to authorise."""
    kind = kind_of(error)
    headers = {"content-language": "en" if language == "en" else "zh-CN", "cache-control": "no-store"}
    if isinstance(error, service.Unready):
        headers["retry-after"] = str(max(1, error.retry_after_s))
    elif kind.status in (429, 503):
        headers["retry-after"] = "5"
    if kind.status == 401:
        headers["www-authenticate"] = 'Bearer realm="evidence"'
    if isinstance(error, MethodRefused):
        headers["allow"] = error.allow
    if isinstance(error, RangeRefused):
        headers["content-range"] = f"bytes */{error.size}"
    return headers


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False, allow_nan=False).encode


def encode(value: JSONValue) -> bytes:
    """`value` as compact UTF-8 JSON for an answer (what is hashed goes through models.canonical instead)."""
    return _encode(value).encode()


def problem_response(error: EvidenceError, *, request_id: str, language: str = "zh") -> Response:
    """The whole answer to a request that ended in `error`."""
    return Response(
        encode(problem_value(error, request_id=request_id, language=language)),
        kind_of(error).status,
        headers_of(error, language=language),
        MEDIA_TYPE,
    )


def language_of(headers: Mapping[str, str]) -> str:
    """`en` if the caller prefers English, else `zh`. Only the first choice of Accept-Language is looked at."""
    return "en" if headers.get("accept-language", "").strip().lower().startswith("en") else "zh"


def refused(field: str, field_zh: str, expected: str, got: str) -> QueryRefused:
    """The refusal of one query parameter; `got` says what kind of thing came, never the value."""
    problem = Problem(pointer=f"?{field}", field=field, field_zh=field_zh, expected=expected, got=got, clause="")
    return QueryRefused(f"parameter {field} is wrong: expected {expected}", (problem,))
