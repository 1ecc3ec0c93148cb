"""Sends a version through the gates again: `mlflow run . -e promote -P name=NAME`."""

from dataclasses import dataclass

from pipelines import registry
from pipelines.config import GateSettings
from pipelines.gates import refusals
from pipelines.tracking import name_run
from serving import registered
from serving import settings as entry
from serving.settings import describe


@dataclass(frozen=True, kw_only=True)
class PromoteSettings(GateSettings):
    """Moves the alias champion to a version, through the gates."""

    name: str = describe("the registered model")
    version: str = describe("empty: the challenger", "")


def main(settings: PromoteSettings) -> int:
    """Returns 0 where the version is champion now, 1 where a gate refused it."""
    uri = f"@{registry.CHALLENGER}" if not settings.version else f"/{settings.version}"
    name, version = registered.resolve(f"models:/{settings.name}{uri}")
    alias, verdicts = registry.promote(name, version, settings)
    model = f"{name} version {version}"
    name_run("promote", f"promote {name} v{version}", {"model": model, "alias": alias})
    print(f"{name} version {version} is @{alias}")
    for gate, refusal in refusals(verdicts).items():
        print(f"  refused by {gate}: {refusal}")
    return 1 if refusals(verdicts) else 0


if __name__ == "__main__":
    entry.run(PromoteSettings, main)
