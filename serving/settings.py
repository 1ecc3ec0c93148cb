"""Settings of every entry point: one frozen dataclass each, one parser for all of them.

A settings class names its parameters as `MLproject` does; a field without a default is required,
and `describe` gives a field its line in `--help`. A mistake of the user is a `UserError`: one
sentence on standard error and exit status 2, never a traceback.
"""

import argparse
import dataclasses
import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar, get_type_hints

# Errors of the machine rather than of the code, which a sentence explains as well as a traceback.
SURROUNDINGS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
    }
)


class UserError(Exception):
    """What the user can put right; the message says what was expected, what came, what to do."""


class Settings(Protocol):
    """A frozen dataclass that validates itself in `__post_init__`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


S = TypeVar("S", bound=Settings)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}; see `{self.prog} --help`.")


def describe(text: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field with its line of help; without `default`, a required parameter."""
    return dataclasses.field(default=default, metadata={"help": text})


def parse(settings: type[S], arguments: Sequence[str], program: str) -> S:
    """Settings from flags spelled like the fields (`--image_size 64`).

    Raises UserError for an unknown flag, a value of the wrong type, or one that the class refuses.
    """
    parser = _Parser(prog=program, description=settings.__doc__, allow_abbrev=False)
    types = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        required = field.default is dataclasses.MISSING
        parser.add_argument(
            f"--{field.name}",
            type=_boolean if types[field.name] is bool else types[field.name],
            required=required,
            default=None if required else field.default,
            help=f"{field.metadata['help']}{'' if required else ' (default: %(default)r)'}",
        )
    return settings(**vars(parser.parse_args(arguments)))


def run(settings: type[S], command: Callable[[S], int | None]) -> NoReturn:
    """Parses the command line, runs `command`, and exits with its status, or 2 for a UserError."""
    quiet()
    program = f"python -m {getattr(sys.modules['__main__'].__spec__, 'name', command.__module__)}"
    try:
        status = command(parse(settings, sys.argv[1:], program))
    except UserError as error:
        print(f"lookout: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in SURROUNDINGS:
            raise
        print(f"lookout: {error.strerror}: {error.filename or 'the disk'}.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell counts a process that SIGINT ended
    sys.exit(status or 0)


def require(condition: bool, sentence: str) -> None:
    """Raises UserError with `sentence` unless `condition` holds."""
    if not condition:
        raise UserError(sentence)


def quiet() -> None:
    """Keeps what libraries tell their developers off the user's terminal."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    warnings.filterwarnings("ignore", module="mlflow|optuna|keras|tensorflow|evidently")
    for name in ("alembic", "mlflow", "optuna", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _boolean(text: str) -> bool:
    choices = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in choices:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return choices[text.lower()]
