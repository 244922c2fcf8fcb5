"""Commands about this node's keys: id, and id protect, unprotect, rotate."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Json, now_ms, session, show
from aigrid.protocol.errors import Code, UsageError

PassphraseFile = Annotated[
    str | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="Its first line is the passphrase of the keys; - for stdin. Else AIGRID_PASSPHRASE.",
    ),
]
OldPassphraseFile = Annotated[
    str | None,
    typer.Option(
        "--old-passphrase-file",
        metavar="FILE",
        help="The same for the passphrase that they have now, to change it.",
    ),
]

id_app = typer.Typer(
    help="Print this node's DID; protect or rotate its key.", rich_markup_mode=None
)


@id_app.callback(invoke_without_command=True)
def identity(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Print this node's DID; make its key if there is none."""
    if ctx.invoked_subcommand is not None:
        return
    from aigrid.node.key_store.keys import own_did
    from aigrid.protocol.identity import peer_id_of_did

    did = own_did(session(ctx).data_dir)
    body = {"did": did, "peer_id": peer_id_of_did(did)}
    show(body, lambda _: render.say(did), as_json=as_json)


@id_app.command()
def protect(
    ctx: typer.Context,
    *,
    passphrase_file: PassphraseFile = None,
    old_passphrase_file: OldPassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Encrypt this node's keys under a passphrase, or change it. Stop the node first."""
    from aigrid.node.key_store.key_change import protect as protect_keys
    from aigrid.node.key_store.passphrase import PassphraseSource

    here = session(ctx).data_dir
    new = PassphraseSource(
        passphrase_file, os.environ, asks="New passphrase: ", again="The same again: "
    )
    old = PassphraseSource(
        old_passphrase_file,
        {},
        asks="Passphrase that they have now: ",
        options="--old-passphrase-file FILE",
        variable="",
    )
    with _stopped(here):
        written, left = protect_keys(here, new(), old)
    _name_left(left)
    show(
        {"protected": written, "left": left},
        lambda _: render.say("Protected. Nobody can recover a passphrase that is forgotten."),
        as_json=as_json,
    )


@id_app.command()
def unprotect(
    ctx: typer.Context, *, passphrase_file: PassphraseFile = None, as_json: Json = False
) -> None:
    """Store this node's keys without a passphrase again. Stop the node first."""
    from aigrid.node.key_store.key_change import unprotect as unprotect_keys
    from aigrid.node.key_store.passphrase import PassphraseSource

    here = session(ctx).data_dir
    passphrase = PassphraseSource(passphrase_file, os.environ)
    with _stopped(here):
        written, left = unprotect_keys(here, passphrase)
    _name_left(left)
    said = "No passphrase protects the keys any more." if written else "No passphrase did."
    body = {"unprotected": written, "left": left}
    show(body, lambda _: render.say(said), as_json=as_json)


@id_app.command()
def rotate(
    ctx: typer.Context, *, passphrase_file: PassphraseFile = None, as_json: Json = False
) -> None:
    """Give this node a new key; `up` has the grid take it for the old one. Stop the node first."""
    from aigrid.node.key_store.key_change import rotate as rotate_key
    from aigrid.node.key_store.keys import retired_name
    from aigrid.node.key_store.passphrase import PassphraseSource

    here = session(ctx).data_dir
    passphrase = PassphraseSource(passphrase_file, os.environ)
    with _stopped(here):
        old, new, left = rotate_key(here, passphrase, now_ms=now_ms())

    for did in left:
        render.note(f"the new key cannot revoke what {did} issued: {retired_name(did)} is missing")
        render.note("or has another passphrase than the key in use")

    def person(_: object) -> None:
        render.note(f"{old} is retired; run `aigrid up` for the grid to take the new one:")
        render.say(new)

    show({"did": new, "retired": old, "not_handed_on": left}, person, as_json=as_json)


def _name_left(left: list[str]) -> None:
    """Retired keys that did not open: the next rotation cannot use them."""
    for name in left:
        render.note(f"{name} keeps another passphrase.")
    if left:
        render.note("What such a key issued cannot be revoked any more after `aigrid id rotate`:")
        render.note("before that, run this again with the passphrase that it has.")


@contextmanager
def _stopped(data_dir: Path) -> Iterator[None]:
    """While no node has the keys in its memory, and none starts."""
    from aigrid.node.key_store.keys import data_directory_lock

    try:
        with data_directory_lock(data_dir):
            yield
    except UsageError as error:
        if error.code is not Code.ALREADY_RUNNING:
            raise
        raise UsageError(
            "the node is running; stop it first, then run the command again", error.code
        ) from None
