"""What can go wrong while a model answers. A class's docstring is its message, fit to show to a user."""


class InferenceError(Exception):
    """The model could not answer."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__ or "")


class EngineUnavailable(InferenceError):
    """The model is not ready yet; try again in a few seconds."""


class Overloaded(EngineUnavailable):
    """Too many requests wait already."""

    def __init__(self, position: int, retry_after: float, *, own: bool) -> None:
        """`position` in the queue that it would have had; `own`: it is this client's requests that wait."""
        self.position = position
        self.retry_after = max(1, round(retry_after))
        self.own = own
        whose = "of yours wait already" if own else "wait already"
        super().__init__(
            f"{position - 1} requests {whose}, this one would be number {position}: try again in {self.retry_after} s."
        )


class WorkerDied(InferenceError):
    """The model's process stopped while it was answering, on every attempt; send the message again."""


class InvalidRequest(InferenceError):
    """The request can't be given to the model."""


class PromptTooLong(InvalidRequest):
    """The prompt is longer than the model's context."""

    def __init__(self, message: str | None = None, *, tokens: int = 0, limit: int = 0) -> None:
        super().__init__(
            message
            or f"The prompt has {tokens} tokens and a conversation holds {limit}: send a shorter text, "
            "start a new conversation, or raise model.context."
        )


class LoadFailed(InferenceError):
    """The model can't be loaded."""


class DecodeFailed(InferenceError):
    """llama.cpp could not compute a step; the worker starts again."""
