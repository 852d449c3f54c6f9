"""The base of every section of a recipe, whichever room it belongs to."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Settings(BaseModel):
    """Unknown keys are refused, values never change after validation; the text below a field describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    silent: ClassVar[frozenset[str]] = frozenset()
    """Keys that are written only where they are set: what was made before there were such keys keeps its signature."""

    @model_serializer(mode="wrap")
    def _without_silence(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = {name: type(self).model_fields[name].default for name in self.silent}
        return {
            key: value
            for key, value in serialize(self).items()
            if key not in defaults or getattr(self, key) != defaults[key]
        }
