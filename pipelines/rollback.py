"""Puts the last champion back: `mlflow run . -e rollback -P name=NAME`. Twice: as it was."""

from dataclasses import dataclass

from pipelines import registry
from pipelines.tracking import name_run
from serving import settings as entry
from serving.settings import describe


@dataclass(frozen=True)
class RollbackSettings:
    """Swaps the champion and the previous one."""

    name: str = describe("the registered model")


def main(settings: RollbackSettings) -> int:
    """Returns 0; a model without a previous champion is a UserError."""
    champion, previous = registry.rollback(settings.name)
    tags = {"model": f"{settings.name} version {champion}", "alias": registry.CHAMPION}
    name_run("rollback", f"rollback {settings.name} to v{champion}", tags)
    print(f"{settings.name} version {champion} is @champion again, version {previous} @previous")
    return 0


if __name__ == "__main__":
    entry.run(RollbackSettings, main)
