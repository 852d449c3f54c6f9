"""Which keys a recipe may have at a place, for messages about one that it has not."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from posedistill.recipe.data import KINDS


def keys_at(kind: type[BaseModel], place: Sequence[str | int]) -> set[str]:
    """The keys that a section may have in which pydantic found a fault at ``place``."""
    models: set[type[BaseModel]] = {kind}
    for part in place[:-1]:
        if part in KINDS:
            models = {KINDS[str(part)]}
        elif isinstance(part, str):
            fields = [model.model_fields[part] for model in models if part in model.model_fields]
            models = {below for field in fields for below in models_of(field.annotation)}
    return {name for model in models for name in model.model_fields}


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The kinds of section that a type may stand for."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inside in get_args(annotation) for model in models_of(inside)]
