"""A tenant's configuration as it holds: its own settings over the platform's over the defaults."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from libs.contracts.configuration import Configuration
from libs.directory.local import Directory, Tenant

C = TypeVar("C", bound=Configuration)


def merged(model: type[C], *layers: Mapping[str, Any]) -> C:
    """The namespace with each later layer over the earlier ones and over the defaults.

    A stored value that this version of the code does not take counts as not set: a service must
    never fail for what was valid when it was saved.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values |= {name: value for name, value in layer.items() if name in model.model_fields}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrong = {part["loc"][0] for part in error.errors() if part["loc"]}
        if not wrong:  # what does not go together counts as not set, all of it
            return model()
        return model.model_validate({n: v for n, v in values.items() if n not in wrong})


async def effective(directory: Directory, tenant: Tenant, model: type[C]) -> C:
    """What holds for the tenant in this namespace, at most two seconds old."""
    platform = await directory.platform()
    layers = [
        record.values
        for each in (platform, tenant)
        if each is not None and (record := each.config(model.namespace)) is not None
    ]
    return merged(model, *layers)
