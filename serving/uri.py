"""Names of registered models, as MLflow writes them, and URLs of databases as they may be shown."""

from sqlalchemy import URL, make_url

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


def without_password(url: str) -> str:
    """A database's URL as it may be shown and logged: without passwords, in its query either.

    Raises sqlalchemy.exc.ArgumentError for what is no URL of a database.
    """
    known = make_url(url)
    parts = known.drivername, known.username, None, known.host, known.port, known.database
    query = {key: value for key, value in known.query.items() if "password" not in key.lower()}
    return URL.create(*parts, query).render_as_string()
