"""What a client is told when a call can't be served: always `{"error": {message, type, param, code}}`."""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from bot.errors import DswbotError
from inference.errors import EngineUnavailable, InferenceError, InvalidRequest, Overloaded, PromptTooLong
from storage.errors import Forgotten, StorageError


class ApiError(DswbotError):
    """The call can't be served."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None,
                 headers: Mapping[str, str] | None = None) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


class Stopping(ApiError):
    """The service is stopping; try again shortly."""

    def __init__(self) -> None:
        super().__init__(
            503, self.__doc__ or "", code="stopping", headers={"Retry-After": "5", "Connection": "close"}
        )  # fmt: skip


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorDetail


TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def body_of(error: ApiError) -> ErrorBody:
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return ErrorBody(ErrorDetail(str(error), kind, error.param, error.code))


def response_to(error: ApiError) -> web.Response:
    return web.Response(
        status=error.status, headers=error.headers,
        body=msgspec.json.encode(body_of(error)), content_type="application/json",
    )  # fmt: skip


def translate(error: Exception) -> ApiError | None:
    """The answer to an error that is expected to happen; None for those that are not."""
    match error:
        case ApiError():
            return error
        case PromptTooLong():
            return ApiError(400, str(error), code="context_length_exceeded", param="messages")
        case InvalidRequest():
            return ApiError(400, str(error), code="invalid_request")
        case Overloaded():
            headers = {"Retry-After": str(error.retry_after), "X-Queue-Position": str(error.position)}
            return ApiError(429 if error.own else 503, str(error), code="overloaded", headers=headers)
        case EngineUnavailable():
            return ApiError(503, str(error), code="model_not_ready", headers={"Retry-After": "5"})
        case InferenceError():
            return ApiError(503, str(error), code="model_failed", headers={"Retry-After": "1"})
        case Forgotten():
            return ApiError(404, str(error), code="forgotten")
        case StorageError():
            return ApiError(503, str(error), code="storage_unavailable", headers={"Retry-After": "5"})
        case web.HTTPException():
            return _of_aiohttp(error)
    return None


def _of_aiohttp(error: web.HTTPException) -> ApiError:
    match error:
        case web.HTTPRequestEntityTooLarge():
            return ApiError(413, "The body is larger than server.max_body allows.", code="body_too_large")
        case web.HTTPNotFound():
            return ApiError(404, "There is nothing at this address.", code="unknown_address")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return ApiError(
                405, f"This address takes {allowed}.", code="method_not_allowed", headers={"Allow": allowed}
            )
    return ApiError(error.status, error.reason or "The request can't be served.", code="bad_request")
