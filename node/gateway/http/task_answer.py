"""Tasks over HTTP in any dialect: asked, and given up when the client leaves."""

from aigrid.node.gateway.call import TaskCall
from aigrid.node.gateway.core import GatewayCore, TaskAnswer
from aigrid.node.gateway.http.request import Request
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
    wish = wish_of(request.fields, call.keep_alive, limits)
    task = core.run_task(call, request_id=request.id, visit=request.visit, wish=wish)
    return await request.unless_gone(task)
