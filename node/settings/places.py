"""Where an exception came from, for logs that may not hold what it says."""

_KEPT = 8


def places_of(error: BaseException) -> dict[str, object]:
    """The type of the first exception inside groups, and the innermost places it came through.

    Not its message: that may quote a prompt or a key.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    places = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return {"error": type(error).__name__, "at": places[-_KEPT:]}
