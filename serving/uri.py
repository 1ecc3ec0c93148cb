"""Names of registered models, as MLflow writes them."""

from serving.settings import UserError


def parse(uri: str) -> tuple[str, str, str]:
    """Name, alias and version in a `models:/` URI, one of the last two empty. Raises UserError."""
    path = uri.removeprefix("models:/")
    name, at, alias = path.partition("@")
    version = ""
    if not at:
        name, _, version = path.partition("/")
    if path == uri or not name or not (alias or version):
        raise UserError(f"Expected models:/NAME@ALIAS or models:/NAME/VERSION, got {uri!r}.")
    return name, alias, version
