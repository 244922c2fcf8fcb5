"""Commands about how models are kept loaded: models pin, unpin, retry."""

import typer

from aigrid.node.cli import render
from aigrid.node.cli.model_commands import Model, models_app
from aigrid.node.cli.session import Json, session, show

__all__ = ["models_app", "pin", "retry", "unpin"]


@models_app.command()
def pin(ctx: typer.Context, name: Model, *, as_json: Json = False) -> None:
    """Load a model and keep it loaded, over restarts, until `unpin`."""
    body = session(ctx).call("models_pin", {"model": name})
    show(body, lambda _: render.say(f"{name} stays loaded."), as_json=as_json)


@models_app.command()
def unpin(ctx: typer.Context, name: Model, *, as_json: Json = False) -> None:
    """Let a pinned model be unloaded when nobody uses it."""
    body = session(ctx).call("models_unpin", {"model": name})
    show(body, lambda _: render.say(f"{name} goes when it is idle."), as_json=as_json)


@models_app.command()
def retry(ctx: typer.Context, name: Model, *, as_json: Json = False) -> None:
    """Offer a model again that kept crashing, once the cause is mended."""
    body = session(ctx).call("models_retry", {"model": name})
    show(body, lambda _: render.say(f"{name} is offered again."), as_json=as_json)
