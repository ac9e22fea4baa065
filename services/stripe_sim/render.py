"""How an object leaves: without what the sandbox keeps for itself, and expanded as asked."""

import json
from collections.abc import Callable
from typing import Any

from services.stripe_sim.errors import ApiError, invalid, no_such
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

INLINE_LIST_MAX = 10
"""A list inside an object shows ten entries; the rest is read from the list's own url."""

EXPAND_DEPTH_MAX = 4
EXPAND_PATHS_MAX = 20

Tree = dict[str, Any]
_on_request: dict[tuple[str, str], Callable[[Scope, Obj], Any]] = {}


def on_request(
    kind: str, name: str
) -> Callable[[Callable[[Scope, Obj], Any]], Callable[[Scope, Obj], Any]]:
    """Register a field that is computed, and present only where the caller expands it."""

    def register(compute: Callable[[Scope, Obj], Any]) -> Callable[[Scope, Obj], Any]:
        _on_request[kind, name] = compute
        return compute

    return register


def render(scope: Scope, obj: Obj, expand: list[str] | None = None) -> Obj:
    """Return an object as the API shows it.

    Raises:
        ApiError: a path of `expand` names a field that cannot be expanded.
    """
    return _render(scope, obj, _tree(expand or []), "")


def _tree(paths: list[str]) -> Tree:
    if len(paths) > EXPAND_PATHS_MAX:
        raise invalid(f"You may expand at most {EXPAND_PATHS_MAX} properties.", "expand")
    root: Tree = {}
    for path in paths:
        node = root
        steps = path.split(".")
        if len(steps) - steps.count("data") > EXPAND_DEPTH_MAX:
            raise invalid(
                f"You cannot expand more than {EXPAND_DEPTH_MAX} levels of a property. "
                f"Property: {path}",
                "expand",
            )
        for step in steps:
            node = node.setdefault(step, {})
    return root


def _render(scope: Scope, obj: Obj, tree: Tree, path: str) -> Obj:
    if obj.get("object") in ("list", "search_result"):
        return _list(scope, obj, tree, path)
    if obj.get("deleted"):
        return {name: obj[name] for name in ("id", "object", "deleted") if name in obj}
    if obj.get("object") == "event":
        shown = {name: value for name, value in obj.items() if name != "_sim"}
        shown["data"] = json.loads(obj["_sim"]["data"])
        if scope.platform is not None:
            shown["account"] = scope.account
        return shown
    shown = {}
    for name, value in obj.items():
        if name == "_sim":
            continue
        inline = isinstance(value, dict) and value.get("object") == "list"
        shown[name] = _inline_list(scope, value) if inline else value
    for name, branch in tree.items():
        shown[name] = _expanded(scope, obj, shown, name, branch, f"{path}{name}")
    return shown


def _list(scope: Scope, obj: Obj, tree: Tree, path: str) -> Obj:
    for name in tree:
        if name != "data":
            raise _cannot_expand(f"{path}{name}")
    branch = tree.get("data", {})
    data = [_render(scope, entry, branch, f"{path}data.") for entry in obj["data"]]
    return {**obj, "data": data}


def _inline_list(scope: Scope, obj: Obj) -> Obj:
    entries = obj["data"]
    shown = [_render(scope, entry, {}, "") for entry in entries[:INLINE_LIST_MAX]]
    return {**obj, "data": shown, "has_more": obj["has_more"] or len(entries) > len(shown)}


def _expanded(scope: Scope, obj: Obj, shown: Obj, name: str, branch: Tree, path: str) -> Any:
    compute = _on_request.get((str(obj.get("object")), name))
    if compute is not None and (name not in shown or shown[name] is None):
        value = compute(scope, obj)
    elif name in shown:
        value = shown[name]
    else:
        raise _cannot_expand(path)
    return _value(scope, value, branch, path)


def _value(scope: Scope, value: Any, branch: Tree, path: str) -> Any:
    if isinstance(value, str):
        found = scope.sandbox.store.find(scope.account, value)
        if found is None:
            raise _cannot_expand(path)
        return _render(scope, found, branch, f"{path}.")
    if isinstance(value, list):
        return [_value(scope, entry, branch, path) for entry in value]
    if isinstance(value, dict):
        return _render(scope, value, branch, f"{path}.")
    if value is None:
        return None
    raise _cannot_expand(path)


def _cannot_expand(path: str) -> ApiError:
    return invalid(
        f"This property cannot be expanded ({path}).", "expand", "property_cannot_be_expanded"
    )


def in_created(obj: Obj, wanted: dict[str, int] | None) -> bool:
    """Say whether an object was created in the wanted range."""
    if not wanted:
        return True
    created = obj["created"]
    return bool(
        ("equal" not in wanted or created == wanted["equal"])
        and ("gt" not in wanted or created > wanted["gt"])
        and ("gte" not in wanted or created >= wanted["gte"])
        and ("lt" not in wanted or created < wanted["lt"])
        and ("lte" not in wanted or created <= wanted["lte"])
    )


def page(scope: Scope, objects: list[Obj], params: dict[str, Any], url: str) -> Obj:
    """Return one page, newest first, of objects given oldest first.

    Raises:
        ApiError: the limit is out of range, or a cursor names no object of the account.
    """
    limit = params.get("limit", 10)
    if limit is None or not 1 <= limit <= 100:
        raise invalid("Limit must be between 1 and 100.", "limit", "parameter_invalid_integer")
    after, before = params.get("starting_after"), params.get("ending_before")
    if after and before:
        raise invalid("You may only specify one of starting_after or ending_before.")
    objects = [obj for obj in objects if in_created(obj, params.get("created"))]
    if after:
        mark = _mark(scope, after, "starting_after")
        objects = [obj for obj in objects if scope.sandbox.store.seq(scope.account, obj) < mark]
    if before:
        mark = _mark(scope, before, "ending_before")
        objects = [obj for obj in objects if scope.sandbox.store.seq(scope.account, obj) > mark]
        chosen = objects[:limit]
    else:
        chosen = objects[max(len(objects) - limit, 0) :]
    return {
        "object": "list",
        "data": chosen[::-1],
        "has_more": len(objects) > len(chosen),
        "url": url,
    }


def _mark(scope: Scope, object_id: str, param: str) -> int:
    obj = scope.sandbox.store.find(scope.account, object_id)
    if obj is None:
        raise no_such("object", object_id, param)
    return scope.sandbox.store.seq(scope.account, obj)


def listing(url: str, data: list[Obj]) -> Obj:
    """Return a list object that stands inside another object."""
    return {"object": "list", "data": data, "has_more": False, "url": url}
