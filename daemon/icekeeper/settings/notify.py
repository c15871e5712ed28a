"""The block notify: who is notified of failed nights. Sending: scheduling/notifier.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PlainSerializer, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from icekeeper.core.secrets import HIDDEN
from icekeeper.settings.blocks import Block

Occasion = Literal["failed", "partial", "held", "source_empty", "recovered"]


class Notify(Block):
    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["url"]}, {"required": ["url_file"]}]})

    # A url that is left out is missing, not wrong.
    url: Annotated[
        SecretStr | None, Field(validate_default=True), PlainSerializer(lambda url: url and HIDDEN, when_used="json")
    ] = None
    """Whom to tell, as Apprise writes it (slack://..., mailto://...). It is a credential: rather a url_file."""
    url_file: Path | None = None
    """A file that holds the url."""
    on: tuple[Occasion, ...] = ("failed", "partial", "held", "source_empty", "recovered")
    """Which outcomes of nights are notified. `held`: a stage is held for a table, the third night in a row;
    `source_empty`: Iceberg has rows of a day and the source has none, the third day in a row."""

    @field_validator("url")
    @classmethod
    def _is_known_to_apprise(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            raise PydanticCustomError("needed", "an Apprise URL, or a url_file that holds one")
        text = url.get_secret_value()
        if text == HIDDEN:  # a placeholder: the secret files were not read
            return url
        # Imported only where needed: it takes half a second, and most configurations have no such block.
        from icekeeper.settings.values.apprise_urls import is_understood, scheme_of

        if not is_understood(text):
            scheme = scheme_of(text)
            what = f"a URL that begins with {scheme}://" if scheme else "a URL without a service (like slack://)"
            raise ValueError(f"{what} is none that Apprise understands: see its documentation of the service")
        return url
