"""Which endpoint answers a method at a path."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from aigrid.node.gateway.http.request import Request
from aigrid.protocol.errors import Code, InvalidRequestError

Answering = Callable[[Request], Awaitable[None]]
Endpoint = Callable[[Request], Awaitable[Answering | Any]]
"""What it returns writes the answer."""

_PARAMETER: Final = re.compile(r"\{([a-z]+)(:path)?\}")


class MethodNotAllowedError(InvalidRequestError):
    """The path has no such method; `allow` lists those that it has."""

    def __init__(self, allow: Iterable[str]) -> None:
        super().__init__("The path has no such method.", Code.METHOD_NOT_ALLOWED)
        self.allow = ", ".join(allow)


class Route:
    """A template of paths, and who answers there.

    `{name}` stands for what holds no slash, `{name:path}` for anything. HEAD goes with GET.
    """

    def __init__(self, path: str, endpoint: Endpoint, *, methods: Iterable[str]) -> None:
        self.path = path
        self.endpoint = endpoint
        methods = tuple(methods)
        self.methods = (*methods, "HEAD") if "GET" in methods else methods
        literal, *parts = _PARAMETER.split(path)
        self.is_literal = not parts
        pattern = re.escape(literal)
        for name, kind, after in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            pattern += f"(?P<{name}>{'.*' if kind else '[^/]+'}){re.escape(after)}"
        self._pattern = re.compile(pattern, re.DOTALL)

    def match(self, path: str) -> Mapping[str, str] | None:
        """What stands for each name; None where the path is of another form."""
        found = self._pattern.fullmatch(path)
        return None if found is None else found.groupdict()


class Router:
    """Routes by path: those without names in them first, then the others in their order."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._literal = {route.path: route for route in self.routes if route.is_literal}
        self._others = [route for route in self.routes if not route.is_literal]

    async def __call__(self, request: Request) -> None:
        """Answer. Raises what the endpoint does, and InvalidRequestError where there is none."""
        answer = await self._find(request).endpoint(request)
        await answer(request)

    def _find(self, request: Request) -> Route:
        other_method: Route | None = None
        literal = self._literal.get(request.path)
        for route in self._others if literal is None else (literal,):
            parameters = route.match(request.path)
            if parameters is None:
                continue
            if request.method in route.methods:
                request.route, request.path_params = route.path, dict(parameters)
                return route
            other_method = other_method or route
        if other_method is not None:
            request.route = other_method.path
            raise MethodNotAllowedError(other_method.methods)
        raise InvalidRequestError("There is nothing at this path.", Code.NOT_FOUND)
