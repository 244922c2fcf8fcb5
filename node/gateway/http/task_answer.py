"""Tasks over HTTP in any dialect: asked, and given up when the client leaves."""

from starlette.requests import Request

from aigrid.node.gateway.call import TaskCall
from aigrid.node.gateway.core import GatewayCore, TaskAnswer
from aigrid.node.gateway.http.asgi import REQUEST_ID, VISIT, until_gone
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.patience import wish_of


async def task_answer(
    core: GatewayCore, request: Request, call: TaskCall, limits: GatewayLimits
) -> TaskAnswer:
    """What `core` answers to the caller of `request`.

    Raises:
        ClientGoneError: the client left first.
        AigridError: see `GatewayCore.run_task`.
    """
    scope = request.scope
    wish = wish_of(dict(scope["headers"]), call.keep_alive, limits)
    return await until_gone(
        request.receive,
        lambda _nursery: core.run_task(
            call, request_id=scope[REQUEST_ID], visit=scope[VISIT], wish=wish
        ),
    )
